# The model's owner: share the trained network with three workers and serve three requests.
#
#     Rscript serve.R        (then client.R in another terminal)

AUTO <- TRUE # FALSE if you start the three workers yourself; the error says how

Sys.setenv(KERAS_BACKEND = "jax") # Keras 3 runs on several; Tercet traces models with JAX
keras <- reticulate::import("keras")
sy <- reticulate::import("tercet.syft") # in 2020: "syft"

hook <- sy$KerasHook(keras) # in 2020: tf$keras

model <- keras$saving$load_model("model.keras") # Keras 3: under `saving`

alice <- sy$TFEWorker(host = 'localhost:4000', auto_managed = AUTO)
bob <- sy$TFEWorker(host = 'localhost:4001', auto_managed = AUTO)
carol <- sy$TFEWorker(host = 'localhost:4002', auto_managed = AUTO)

cluster <- sy$TFECluster(alice, bob, carol)
cluster$start()

model$share(cluster)
model$serve(num_requests = 3L)

model$stop()
cluster$stop()
