"""Eight clients, each a process with its own connections, ask for single images without pause.

    python -m bench.sustained [--json FILE]

A client asks again as soon as it has its answer. Only requests that begin and end within the
window count; the clients take processor time from the workers, as all is one machine.
"""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np

import tercet
from bench.common import ERROR_BOUND, Part, Target, main, trained_digits
from tercet.service.cluster import CLUSTER_FILE

CLIENTS = 8
SECONDS = 8.0
_START = 30.0


def ask(
    path: Path, x: np.ndarray, expected: np.ndarray, barrier: Barrier, report: Connection
) -> None:
    """Be one client: report the times of answers, the latencies and the largest error."""
    latencies: list[float] = []
    worst = 0.0
    with tercet.connect(tercet.Cluster.load(path)) as client:
        for n in range(5):
            client.predict("digits", x[n : n + 1])
        barrier.wait(_START)
        begin = time.perf_counter()
        n = 0
        while True:
            started = time.perf_counter()
            answer = client.predict("digits", x[n : n + 1])
            done = time.perf_counter()
            if done - begin > SECONDS:
                break
            latencies.append(done - started)
            worst = max(worst, float(np.abs(answer - expected[n]).max()))
            n = (n + 1) % len(x)
    report.send((latencies, worst))
    report.close()


def run() -> Part:
    """Run the benchmark."""
    part = Part("sustained", f"{CLIENTS} clients, single images, {SECONDS:g} s")
    model, digits = trained_digits()
    per_client = 100
    context = multiprocessing.get_context("spawn")
    with tercet.LocalCluster(quiet=True) as cluster:
        tercet.share(model, cluster, "digits", sample=digits.x_train[:256])
        tercet.serve("digits", cluster)
        barrier = context.Barrier(CLIENTS)
        processes, pipes = [], []
        try:
            for i in range(CLIENTS):
                x = digits.x_test[i * per_client : (i + 1) * per_client]
                here, there = context.Pipe(duplex=False)
                expected = np.asarray(model(x))
                process = context.Process(
                    target=ask,
                    args=(cluster.directory / CLUSTER_FILE, x, expected, barrier, there),
                )
                process.start()
                there.close()
                processes.append(process)
                pipes.append(here)
            reports = []
            for pipe in pipes:
                if not pipe.poll(_START + SECONDS + 30):
                    raise TimeoutError("a client did not report")
                reports.append(pipe.recv())
            for process in processes:
                process.join(10)
        finally:
            for process in processes:
                if process.is_alive():
                    process.kill()
                    process.join()
    latencies = np.concatenate([r[0] for r in reports])
    rate = len(latencies) / SECONDS
    row = {
        "clients": CLIENTS,
        "requests": len(latencies),
        "requests_a_second": rate,
        "fewest_of_a_client": min(len(r[0]) for r in reports),
    }
    for name, q in (("p10", 0.1), ("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1)):
        row[f"{name}_ms"] = float(np.quantile(latencies, q)) * 1e3
    row["max_logit_error"] = max(r[1] for r in reports)
    part.rows.append(row)
    part.targets += [
        Target("requests a second", rate, 250, "/s", least=True),
        Target("p99", row["p99_ms"], 150, "ms"),
        Target("largest error of a logit", row["max_logit_error"], ERROR_BOUND, ""),
    ]
    return part


if __name__ == "__main__":
    main(run, __doc__)
