"""The client's side of the post: ask about three images, which nobody else sees."""

import numpy as np

from tercet import syft as sy
from tercet.data import load_digits

digits = load_digits()

client = sy.TFEWorker()

alice = sy.TFEWorker(host="localhost:4000")
bob = sy.TFEWorker(host="localhost:4001")
carol = sy.TFEWorker(host="localhost:4002")
cluster = sy.TFECluster(alice, bob, carol)

client.connect_to_model((1, 28, 28, 1), (1, 10), cluster)

for image, label in zip(digits.x_test[:3], digits.y_test, strict=False):
    logits = client.query_model(image[None])
    print("Actual: ", label, ", predicted: ", np.argmax(logits))
