"""A round of federated averaging, in the clear and secure, beside Flower's own.

    python -m bench.federated [--json FILE]

Ten clients with 10^6 parameters each, which train nothing. ``in the clear`` is NumPy's mean of
arrays that lie there: what averaging itself costs. Flower's rows run in its simulation (ray), all
messages included; the first round, in which processes start, is left out. SecAgg+ is its full
graph, with Flower's own defaults otherwise. Tercet's row is three worker processes over TLS and
the participants in this process.
"""

from __future__ import annotations

import os
import time

for _name in ("FLWR_TELEMETRY_ENABLED", "RAY_USAGE_STATS_ENABLED"):
    os.environ[_name] = "0"

import numpy as np

from bench.common import Part, main, spread, times
from tercet.federated import Participant, train
from tercet.service.cluster import LocalCluster

CLIENTS = 10
PARAMETERS = 10**6
ROUNDS = 4


class Vector:
    """A model that is one array."""

    name = "vector"

    def __init__(self) -> None:
        self.weights = [np.zeros(PARAMETERS, np.float32)]

    def get_weights(self) -> list[np.ndarray]:
        """Return the array in a list."""
        return self.weights

    def set_weights(self, weights: list[np.ndarray]) -> None:
        """Take the array in a list."""
        self.weights = weights


def run() -> Part:
    """Run the benchmark."""
    part = Part("federated", f"a round of {CLIENTS} clients, {PARAMETERS:,} parameters")
    rng = np.random.default_rng(0)
    updates = [rng.normal(0, 1e-4, PARAMETERS).astype(np.float32) for _ in range(CLIENTS)]
    clear = times(lambda: np.mean(updates, 0), ROUNDS, 1)
    part.rows.append({"what": "in the clear, NumPy alone", **spread(clear)})
    part.rows.append({"what": "Tercet", **spread(secure(updates))})
    for name, seconds in flower(updates).items():
        part.rows.append({"what": f"Flower, {name}", **spread(seconds)})
    return part


def secure(updates: list[np.ndarray]) -> list[float]:
    """Return the seconds of each round but the first."""
    names = [f"client-{i}" for i in range(CLIENTS)]
    with LocalCluster(quiet=True, parties=names) as cluster:
        participants = [
            Participant(cluster.as_party(n).owner, lambda w, _, u=u: [w[0] + u])
            for n, u in zip(names, updates, strict=True)
        ]
        history = train(Vector(), participants, cluster, rounds=ROUNDS, clip_norm=1.0, quiet=True)
    return [r.seconds for r in history.rounds[1:]]


def flower(updates: list[np.ndarray]) -> dict[str, list[float]]:
    """Return the seconds of each round but the first, of FedAvg and of SecAgg+."""
    from flwr.client import NumPyClient
    from flwr.client.mod import secaggplus_mod
    from flwr.clientapp import ClientApp
    from flwr.common import ndarrays_to_parameters
    from flwr.server import LegacyContext, ServerConfig
    from flwr.server.strategy import FedAvg
    from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
    from flwr.serverapp import ServerApp
    from flwr.simulation import run_simulation

    class Client(NumPyClient):
        def fit(self, parameters, config):  # noqa: ANN001, ANN202
            return [parameters[0] + updates[0]], 1, {}

    found: dict[str, list[float]] = {}
    for name, mods, workflow in (
        ("FedAvg", [], None),
        ("SecAgg+", [secaggplus_mod], SecAggPlusWorkflow(CLIENTS, CLIENTS - 1)),
    ):
        moments: list[float] = []
        server = ServerApp()

        @server.main()
        def run_server(grid, context, workflow=workflow, moments=moments):  # noqa: ANN001, ANN202
            def note(*_: object) -> None:
                moments.append(time.perf_counter())

            start = ndarrays_to_parameters([np.zeros(PARAMETERS, np.float32)])
            strategy = FedAvg(
                fraction_evaluate=0.0, min_available_clients=CLIENTS,
                initial_parameters=start, evaluate_fn=note,
            )  # fmt: skip
            legacy = LegacyContext(context, ServerConfig(num_rounds=ROUNDS), strategy)
            DefaultWorkflow(fit_workflow=workflow)(grid, legacy)

        client = ClientApp(client_fn=lambda context: Client().to_client(), mods=mods)
        resources = {"client_resources": {"num_cpus": 1}}
        run_simulation(server, client, CLIENTS, backend_config=resources)
        found[name] = list(np.diff(moments)[1:])
    return found


if __name__ == "__main__":
    main(run, __doc__)
