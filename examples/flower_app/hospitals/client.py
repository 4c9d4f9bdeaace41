"""A hospital's side. Its own settings are its SuperNode's; the server chooses none of them."""

from __future__ import annotations

from pathlib import Path

from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from hospitals import task
from tercet.flower import Settings, secure_mod
from tercet.flower.mod import from_node_config

app = ClientApp()


def settings(context: Context) -> Settings:
    """Return the SuperNode's settings or, in a simulation, those of one of the simulated nodes."""
    if "tercet-cluster" in context.node_config:
        return from_node_config(context)
    folder = Path(str(context.run_config["tercet-directory"]))
    name = f"hospital-{context.node_config['partition-id']}"
    return Settings(folder / "cluster.toml", folder / name, metrics=("loss-before",))


@app.train(mods=[secure_mod(settings)])
def train(message: Message, context: Context) -> Message:
    """Train as in any Flower app."""
    partition = int(context.node_config["partition-id"])
    x, y = task.hospital(partition, int(context.run_config["nodes"]))
    model = {name: array.numpy() for name, array in message.content["arrays"].items()}
    proximal = float(message.content["config"].get("proximal-mu", 0.0))
    trained = task.train(model, x, y, proximal=proximal)
    arrays = ArrayRecord({name: Array(array) for name, array in trained.items()})
    metrics = MetricRecord({"num-examples": len(x), "accuracy": task.accuracy(trained)})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)
