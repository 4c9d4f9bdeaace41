# Train the post's network for one epoch and save it.
#
#     Rscript create_model.R
#
# What differs from 2020: Keras 3 is used from Python itself (`keras$layers$...`), since the R
# package of that time binds Keras 2; `ReLU` is a layer; the format of the file is .keras.

Sys.setenv(KERAS_BACKEND = "jax") # Keras 3 runs on several; Tercet traces models with JAX
keras <- reticulate::import("keras")
layers <- keras$layers

digits <- reticulate::import("tercet.data")$load_digits() # a part of MNIST that ships with Tercet
x_train <- digits$x_train
y_train <- digits$y_train

model <- keras$Sequential(list(
  keras$Input(shape = list(28L, 28L, 1L)),
  layers$Conv2D(filters = 16L, kernel_size = 3L),
  layers$AveragePooling2D(pool_size = 2L),
  layers$ReLU(),
  layers$Conv2D(filters = 32L, kernel_size = 3L),
  layers$AveragePooling2D(pool_size = 2L),
  layers$ReLU(),
  layers$Conv2D(filters = 64L, kernel_size = 3L),
  layers$AveragePooling2D(pool_size = 2L),
  layers$ReLU(),
  layers$Flatten(),
  layers$Dense(units = 10L)
))

model$compile(
  loss = keras$losses$SparseCategoricalCrossentropy(from_logits = TRUE),
  optimizer = "adam",
  metrics = list("accuracy")
)

model$fit(x_train, y_train, batch_size = 16L, epochs = 1L, verbose = 2L)

model$save("model.keras") # Keras 3 wants this ending; in 2020 it was a folder or .hdf5
