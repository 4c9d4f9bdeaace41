"""The model owner's side of the post: share a trained network and serve three requests.

    python serve.py model.keras

client.py, in another terminal, asks.
"""

import os
import sys

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras

from tercet import syft as sy

AUTO = True  # False if you start the three workers yourself; the error says how

hook = sy.KerasHook(keras)
model = keras.saving.load_model(sys.argv[1])

alice = sy.TFEWorker(host="localhost:4000", auto_managed=AUTO)
bob = sy.TFEWorker(host="localhost:4001", auto_managed=AUTO)
carol = sy.TFEWorker(host="localhost:4002", auto_managed=AUTO)

cluster = sy.TFECluster(alice, bob, carol)
cluster.start()

model.share(cluster)
model.serve(num_requests=3)

model.stop()
cluster.stop()
