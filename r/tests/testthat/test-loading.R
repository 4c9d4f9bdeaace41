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
  expect_match(said, "Run install_tercet(), or name a Python that has it", fixed = TRUE, all = FALSE)
})
