"""The 2019 API of Syft's Keras integration, on Tercet's workers.

    from tercet.syft import KerasHook, TFECluster, TFEWorker

    KerasHook(keras)                                   # keras.Model gets share, serve and stop
    alice = TFEWorker(host="localhost:4000", auto_managed=True)
    bob = TFEWorker(host="localhost:4001", auto_managed=True)
    carol = TFEWorker(host="localhost:4002", auto_managed=True)
    cluster = TFECluster(alice, bob, carol)
    cluster.start()                                    # returns when all three are ready
    model.share(cluster)
    model.serve(num_requests=3)                        # blocks; a line for each answer
    model.stop()
    cluster.stop()

and in another process, with the same three workers:

    client = TFEWorker()
    client.connect_to_model((1, 28, 28, 1), (1, 10), cluster)
    client.query_model(images)                         # any number of rows

A cluster holds one model at a time, as in 2019. Whole floats pass for integers everywhere.
"""

from __future__ import annotations

from tercet.syft.cluster import TFECluster
from tercet.syft.hook import KerasHook
from tercet.syft.worker import TFEClient, TFEWorker

__all__ = ["KerasHook", "TFEClient", "TFECluster", "TFEWorker"]
