test_that("arrays of any shape and type come back with the same values", {
  shapes <- list(1, 5, c(2, 3), c(1, 1, 1), c(4, 3, 2, 5), c(3, 0))
  for (shape in shapes) {
    x <- array(seq_len(prod(shape)) / 7 - 1, dim = shape)
    expect_identical(tercet:::from_numpy(tercet:::to_numpy(x)), x)
  }
  expect_identical(tercet:::from_numpy(tercet:::to_numpy(1:4)), array(c(1, 2, 3, 4)))
  expect_identical(tercet:::from_numpy(tercet:::to_numpy(c(TRUE, FALSE))), array(c(1, 0)))
  expect_identical(
    tercet:::from_numpy(tercet:::to_numpy(data.frame(a = 1:2, b = c(0.5, 2)))),
    array(c(1, 2, 0.5, 2), dim = c(2, 2))
  )
  extremes <- c(.Machine$double.xmin, -.Machine$double.xmax, 2^53 + 2, -0.1)
  expect_identical(tercet:::from_numpy(tercet:::to_numpy(extremes)), array(extremes))
})

test_that("Python sees the element that R names", {
  x <- array(1:24, dim = c(2, 3, 4))
  a <- tercet:::to_numpy(x)
  expect_identical(reticulate::py_to_r(a$shape), list(2L, 3L, 4L))
  for (i in 1:2) for (j in 1:3) for (k in 1:4) {
    expect_equal(reticulate::py_to_r(a$item(i - 1L, j - 1L, k - 1L)), x[i, j, k])
  }
})

test_that("what is not real numbers is refused", {
  refused <- function(x, words) {
    expect_error(tercet:::to_numpy(x), words, class = "tercet_InputError")
  }
  refused(factor(c("a", "b")), "is a factor")
  refused(data.frame(a = 1, b = factor("u")), "column 'b' of x is not numeric")
  refused(c(1, NA, NA), "has 2 missing values, the first at position 2")
  refused(c(1L, NA), "has 1 missing values")
  refused(c(NaN, 1), "the first at position 1")
  refused("a", "is of type character")
  refused(1i, "is of type complex")
  refused(list(1), "is of type list")
})

test_that("counts are whole numbers", {
  expect_null(tercet:::whole(NULL, "n"))
  expect_identical(tercet:::whole(3, "n"), 3L)
  for (bad in list(0, 2.5, NA_real_, c(1, 2), "3", Inf)) {
    expect_error(tercet:::whole(bad, "n"), "n is not a whole number", class = "tercet_InputError")
  }
})
