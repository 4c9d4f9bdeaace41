# Python is not touched before it is needed: loading this package starts nothing.

.onLoad <- function(libname, pkgname) {
  # reticulate 1.41 and newer can make an environment by itself; this only notes what it must hold.
  if (exists("py_require", envir = asNamespace("reticulate"), inherits = FALSE)) {
    getExportedValue("reticulate", "py_require")("tercet[keras]")
  }
}

# A module of the Python package, its objects kept as they are.
module <- function(name) {
  tryCatch(
    reticulate::import(name, convert = FALSE),
    error = function(e) {
      signal(
        "InstallationError",
        paste0(
          "the Python package 'tercet' cannot be loaded (", first_line(conditionMessage(e)),
          "). Run install_tercet(), or name a Python that has it: reticulate::use_python()"
        )
      )
    }
  )
}

# Evaluate a call into Python; its errors become R conditions with the same text.
calling <- function(expr) {
  tryCatch(expr, error = function(e) {
    if (inherits(e, "tercet_error")) stop(e)
    last <- reticulate::py_last_error()
    if (is.null(last)) stop(e)
    signal(last$type, last$value)
  })
}

signal <- function(kind, message) {
  kind <- sub("^.*[.]", "", kind)
  message <- sub(paste0("^(tercet[.]errors[.])?", kind, ": "), "", as.character(message))
  classes <- c(paste0("tercet_", kind), "tercet_error", "error", "condition")
  stop(structure(class = classes, list(message = message, call = NULL)))
}

first_line <- function(text) strsplit(text, "\n", fixed = TRUE)[[1]][1]

#' Install the Python package
#'
#' Makes a virtual environment and installs Tercet with Keras and JAX in it. A C++ compiler is
#' needed.
#'
#' @param from a folder of Tercet's sources, a wheel, or what else pip takes.
#' @param envname name of the virtual environment; `reticulate` finds "r-reticulate" by itself.
#' @return The name of the environment, invisibly.
#' @export
install_tercet <- function(from = "tercet", envname = "r-reticulate") {
  if (!reticulate::virtualenv_exists(envname)) {
    reticulate::virtualenv_create(envname)
  }
  packages <- paste0(if (file.exists(from)) normalizePath(from) else from, "[keras]")
  if (utils::packageVersion("reticulate") < "1.38") {
    packages <- c(packages, "numpy<2") # older ones cannot read numpy 2
  }
  reticulate::virtualenv_install(envname, packages, ignore_installed = FALSE)
  invisible(envname)
}
