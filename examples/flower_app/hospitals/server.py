"""The server's side: any FedAvg-like strategy, wrapped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAdam, FedAvg, FedProx

from hospitals import task
from tercet import Cluster
from tercet.federated import UserLevel
from tercet.flower import SecureStrategy

app = ServerApp()

STRATEGIES = {
    "fedavg": lambda nodes: FedAvg(fraction_evaluate=0.0, min_available_nodes=nodes),
    "fedprox": lambda nodes: FedProx(
        fraction_evaluate=0.0, min_available_nodes=nodes, proximal_mu=0.1
    ),
    "fedadam": lambda nodes: FedAdam(
        fraction_evaluate=0.0, min_available_nodes=nodes, eta=0.03, tau=1e-2
    ),
}


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run all rounds and save the model."""
    config = context.run_config
    cluster = Cluster.load(Path(str(config["tercet-directory"])) / "cluster.toml")
    epsilon = float(config["epsilon"])
    strategy = SecureStrategy(
        STRATEGIES[str(config["strategy"])](int(config["nodes"])),
        cluster,
        clip_norm=float(config["clip-norm"]),
        minimum=int(config["minimum"]),
        privacy=UserLevel(epsilon, float(config["delta"])) if epsilon else None,
    )

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        model = {name: array.numpy() for name, array in arrays.items()}
        return MetricRecord({"accuracy": task.accuracy(model)})

    result = strategy.start(
        grid,
        ArrayRecord({name: Array(array) for name, array in task.initial().items()}),
        num_rounds=int(config["num-server-rounds"]),
        evaluate_fn=evaluate,
    )
    if config["save"]:
        np.savez(str(config["save"]), **{n: a.numpy() for n, a in result.arrays.items()})
