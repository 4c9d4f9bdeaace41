library(testthat)
library(tercet)

test_check("tercet")
