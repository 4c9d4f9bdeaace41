known <- known_model()
workers <- local_cluster(quiet = TRUE)

test_that("share, serve and ask, in a pipe", {
  x <- array(rnorm(30), dim = c(5, 2, 3))
  piped <- workers |>
    share_model(known$model, "known", sample = x) |>
    serve_model("known", max_requests = 4)
  expect_identical(piped, workers)
  client <- connect_to_model(workers, "known")
  expect_output(print(client), "(rows, 2, 3) to (rows, 2)", fixed = TRUE)
  y <- predict(client, x)
  expect_identical(dim(y), c(5L, 2L))
  expect_equal(y, known$in_the_clear(x), tolerance = 1e-3)
  one <- x[3, , , drop = FALSE]
  expect_equal(predict(client, one), known$in_the_clear(one), tolerance = 1e-3)
  whole <- array(1:12, dim = c(2, 2, 3))
  expect_equal(predict(client, whole), known$in_the_clear(whole), tolerance = 1e-3)

  expect_error(
    predict(client, x[1, , ]),
    "x has dim (2, 3), but the model takes (rows, 2, 3). Add the axis of the rows",
    fixed = TRUE, class = "tercet_InputError"
  )
  expect_error(predict(client, 1:6), "Check its dim", class = "tercet_InputError")
  x[2] <- NA
  expect_error(predict(client, x), "missing values", class = "tercet_InputError")
  x[2] <- Inf
  expect_error(predict(client, x), class = "tercet_InputError")

  predict(client, one) # the fourth: what was refused before was not sent
  expect_error(predict(client, one), "answered its 4 requests", class = "tercet_RefusedError")
  stop_model(workers, "known", remove = TRUE)
  expect_error(predict(client, one), "no model 'known' is shared", class = "tercet_NotFoundError")
})

test_that("errors of Python are conditions with the same text", {
  expect_error(serve_model(workers, "none"), "no model 'none' is shared",
               class = "tercet_NotFoundError")
  expect_error(connect_to_model(workers, "none"), class = "tercet_error")
  expect_error(share_model(workers, "none.keras"), "none.keras", class = "tercet_ModelError")
  expect_error(serve_model(workers, "none", max_requests = 2.5), "max_requests is not a whole",
               class = "tercet_InputError")
  expect_error(worker("localhost"), "'localhost' is not an address", class = "tercet_ConfigError")
  expect_error(stop_cluster(1), "not a cluster", class = "tercet_InputError")
  expect_error(start_cluster(workers), "runs already", class = "tercet_InputError")
  expect_error(cluster(worker("localhost:1"), worker("localhost:1"), worker("localhost:2")),
               "the same worker twice", class = "tercet_ConfigError")
  expect_error(cluster(1, 2, 3), "three workers", class = "tercet_InputError")
})

test_that("a worker that is killed is named", {
  share_model(workers, known$model, "known")
  serve_model(workers, "known")
  client <- connect_to_model(workers, "known")
  tools::pskill(reticulate::py_to_r(workers$py$pids)[2], tools::SIGKILL)
  expect_error(predict(client, array(0, dim = c(1, 2, 3))), "greg", class = "tercet_error")
})

test_that("objects print in one line", {
  expect_output(print(workers), "<tercet cluster: this machine, for trial>", fixed = TRUE)
  expect_output(print(worker("localhost:4000", FALSE)),
                "<tercet worker localhost:4000, started elsewhere>", fixed = TRUE)
})

test_that("a cluster stops, and can be stopped again", {
  pids <- reticulate::py_to_r(workers$py$pids)
  expect_length(pids, 3)
  stop_cluster(workers)
  for (pid in pids) expect_false(tools::pskill(pid, 0))
  stop_cluster(workers)
  expect_error(connect_to_model(workers, "known"), "not started", class = "tercet_WorkerError")
})
