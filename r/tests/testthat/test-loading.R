# In R processes of their own, for which there is no Python.
without_python <- function(code) {
  suppressWarnings(system2(
    file.path(R.home("bin"), "Rscript"), c("-e", shQuote(code)),
    env = c("RETICULATE_PYTHON=/nonexistent/python", "R_TESTS="), stdout = TRUE, stderr = TRUE
  ))
}

test_that("loading the package touches no Python", {
  said <- without_python("library(tercet); cat('initialised:', reticulate::py_available(), '\n')")
  expect_match(said, "initialised: FALSE", all = FALSE)
})

test_that("a missing Python is an error that says what to do", {
  said <- without_python(
    "tryCatch(tercet::local_cluster(), tercet_InstallationError = function(e) cat(e$message))"
  )
  expect_match(
    said, "Run install_tercet(from = ...), or name a Python that has it", fixed = TRUE, all = FALSE
  )
})

test_that("no Python package is installed by its name", {
  before <- Sys.getenv("TERCET_PACKAGE", unset = NA)
  on.exit(
    if (is.na(before)) Sys.unsetenv("TERCET_PACKAGE") else Sys.setenv(TERCET_PACKAGE = before)
  )
  Sys.unsetenv("TERCET_PACKAGE")
  expect_error(install_tercet(), "not said where", class = "tercet_InstallationError")
  for (name in list("tercet", "tercet==0.1", "nowhere/tercet.whl")) {
    expect_error(install_tercet(name), "neither a file", class = "tercet_InstallationError")
  }
  for (wrong in list(NULL, NA_character_, 1, c("a", "b"))) {
    expect_error(install_tercet(wrong), "not said where", class = "tercet_InstallationError")
  }
  Sys.setenv(TERCET_PACKAGE = "tercet")
  expect_error(install_tercet(), "neither a file", class = "tercet_InstallationError")
  requirement <- getFromNamespace("requirement", "tercet")
  url <- "https://models.example/tercet-0.1.0-cp311-abi3-linux_x86_64.whl"
  expect_equal(requirement(url), paste("tercet[keras] @", url))
  expect_equal(requirement("."), paste0(normalizePath("."), "[keras]"))
})

test_that("nothing in the package requires a Python package by its name", {
  space <- asNamespace("tercet")
  found <- Filter(is.function, lapply(ls(space, all.names = TRUE), get0, envir = space))
  code <- unlist(lapply(found, deparse))
  expect_true(any(grepl("virtualenv_install", code)))
  expect_false(any(grepl("py_require|py_install", code)))
})
