# Python is not touched before it is needed: loading this package starts nothing. Nor does it
# require a Python package by name: none on a public index is Tercet's, and whoever registered the
# name would be installed.

# A module of the Python package, its objects kept as they are.
module <- function(name) {
  tryCatch(
    reticulate::import(name, convert = FALSE),
    error = function(e) {
      signal(
        "InstallationError",
        paste0(
          "the Python package 'tercet' cannot be loaded (", first_line(conditionMessage(e)),
          "). Run install_tercet(from = ...), or name a Python that has it: ",
          "reticulate::use_python()"
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
#' Makes a virtual environment and installs Tercet with Keras and JAX in it. A folder of sources
#' needs a C++ compiler.
#'
#' Where Tercet comes from must be said. It is not on a public index of Python packages: a package
#' of that name there would be somebody else's, and a bare name is refused.
#'
#' @param from a folder of Tercet's sources, a wheel, or a URL of either (`https://`, `git+https://`
#'   and so on). By default what the environment variable TERCET_PACKAGE says.
#' @param envname name of the virtual environment; `reticulate` finds "r-reticulate" by itself.
#' @return The name of the environment, invisibly.
#' @export
install_tercet <- function(from = Sys.getenv("TERCET_PACKAGE"), envname = "r-reticulate") {
  packages <- requirement(from)
  if (!reticulate::virtualenv_exists(envname)) {
    reticulate::virtualenv_create(envname)
  }
  if (utils::packageVersion("reticulate") < "1.38") {
    packages <- c(packages, "numpy<2") # older ones cannot read numpy 2
  }
  reticulate::virtualenv_install(envname, packages, ignore_installed = FALSE)
  invisible(envname)
}

# What pip installs from a path or a URL; never a name, which it would look up in an index.
requirement <- function(from) {
  given <- is.character(from) && length(from) == 1 && !is.na(from) && nzchar(from)
  if (given && grepl("^[a-z][a-z0-9+.-]*://", from, ignore.case = TRUE)) {
    return(paste0("tercet[keras] @ ", from))
  }
  if (given && file.exists(from)) {
    return(paste0(normalizePath(from), "[keras]"))
  }
  signal(
    "InstallationError",
    paste0(
      if (given) paste0("'", from, "' is neither a file, a folder nor a URL") else {
        "it is not said where to install the Python package 'tercet' from"
      },
      ". Give install_tercet(from = ...) a folder of Tercet's sources, a wheel or a URL, or set ",
      "TERCET_PACKAGE: on a public index that name is not Tercet's"
    )
  )
}
