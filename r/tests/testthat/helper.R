# A Python with Tercet in it is named by RETICULATE_PYTHON.
Sys.setenv(KERAS_BACKEND = "jax")

# A model that takes rows of 2 x 3 numbers and gives two; its weights are known.
known_model <- function() {
  keras <- reticulate::import("keras")
  layers <- keras$layers
  model <- keras$Sequential(list(
    keras$Input(shape = list(2L, 3L)), layers$Flatten(), layers$Dense(units = 2L)
  ))
  weights <- matrix(c(1, 2, 3, 4, 5, 6, -1, 0.5, 0, 0, 0, 2), nrow = 6)
  model$layers[[2]]$set_weights(list(weights, array(c(0.25, -1), dim = 2)))
  list(
    model = model,
    in_the_clear = function(x) {
      # Keras flattens rows first, R columns first.
      flat <- matrix(aperm(x, c(1, 3, 2)), nrow = dim(x)[1])
      sweep(flat %*% weights, 2, c(0.25, -1), "+")
    }
  )
}
