# The client: ask about three images, which nobody else sees.
#
#     Rscript client.R       (while serve.R runs)

sy <- reticulate::import("tercet.syft") # in 2020: "syft", and keras besides, which is not needed

digits <- reticulate::import("tercet.data")$load_digits() # in 2020: dataset_mnist()
images <- digits$x_test
labels <- digits$y_test

client <- sy$TFEWorker()

alice <- sy$TFEWorker(host = 'localhost:4000')
bob <- sy$TFEWorker(host = 'localhost:4001')
carol <- sy$TFEWorker(host = 'localhost:4002')
cluster <- sy$TFECluster(alice, bob, carol)

client$connect_to_model(c(1, 28, 28, 1), c(1, 10), cluster)

for (i in 1:3) {
  image <- images[i, , , , drop = FALSE]
  logits <- client$query_model(image)
  cat("Actual: ", labels[i], ", predicted: ", which.max(logits) - 1, "\n")
}
