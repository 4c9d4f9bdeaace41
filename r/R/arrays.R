# R arrays to NumPy and back through their bytes, which does not depend on the versions of
# reticulate and NumPy. R is column-major: NumPy is told so, and no value moves.

# An R array, matrix, vector or numeric data frame as a float64 NumPy array of the same shape.
to_numpy <- function(x, what = "x") {
  x <- numbers(x, what)
  np <- module("numpy")
  bytes <- reticulate::r_to_py(writeBin(as.double(x), raw(), endian = "little"))
  shape <- if (is.null(dim(x))) length(x) else dim(x)
  shape <- do.call(reticulate::tuple, as.list(as.integer(shape)))
  np$frombuffer(bytes, dtype = "<f8")$reshape(shape, order = "F")
}

# A NumPy array as an R array of doubles of the same shape.
from_numpy <- function(a) {
  shape <- as.integer(unlist(reticulate::py_to_r(a$shape)))
  bytes <- module("builtins")$bytearray(a$astype("<f8")$tobytes(order = "F"))
  values <- readBin(reticulate::py_to_r(bytes), "double", prod(shape), 8L, endian = "little")
  array(values, dim = shape)
}

# Check that x is real numbers without a gap.
numbers <- function(x, what) {
  if (is.data.frame(x)) {
    odd <- names(x)[!vapply(x, function(column) is.numeric(column) || is.logical(column), NA)]
    if (length(odd) > 0) {
      signal("InputError", paste0(
        "column '", odd[1], "' of ", what, " is not numeric. Encode it as numbers first"
      ))
    }
    x <- as.matrix(x)
  }
  if (is.factor(x)) {
    signal("InputError", paste0(
      what, " is a factor. Its codes are rarely what is meant: encode it as numbers first"
    ))
  }
  if (!(is.numeric(x) || is.logical(x))) {
    signal("InputError", paste0(what, " is of type ", typeof(x), ". Give real numbers"))
  }
  if (anyNA(x)) {
    signal("InputError", paste0(
      what, " has ", sum(is.na(x)), " missing values, the first at position ",
      which(is.na(x))[1], ". Fill or drop them first"
    ))
  }
  x
}

# A count that Python takes for an integer; NULL stays NULL.
whole <- function(x, what) {
  if (is.null(x)) {
    return(NULL)
  }
  if (!is.numeric(x) || length(x) != 1 || is.na(x) || x < 1 || x != floor(x) ||
      x > .Machine$integer.max) {
    signal("InputError", paste0(what, " is not a whole number of at least 1"))
  }
  as.integer(x)
}

# A model's shape as c("rows", "28", ...).
shape_of <- function(shape) {
  extents <- as.integer(unlist(reticulate::py_to_r(shape)))
  c("rows", as.character(extents[-1]))
}

check_rows <- function(x, shape, what) {
  given <- if (is.null(dim(x))) length(x) else dim(x)
  if (length(given) != length(shape) || any(as.character(given[-1]) != shape[-1])) {
    hint <- if (identical(as.character(given), shape[-1])) {
      paste0("Add the axis of the rows: array(x, c(1, ", paste(given, collapse = ", "), "))")
    } else {
      "Check its dim()"
    }
    signal("InputError", paste0(
      what, " has dim (", paste(given, collapse = ", "), "), but the model takes (",
      paste(shape, collapse = ", "), "). ", hint
    ))
  }
}
