"""Secure aggregation over three workers on this machine: seconds of a round, bytes up, memory.

    python -m bench.aggregate [--json FILE]

The participants are threads of this process, which deals, encrypts and sends for all of them; so
the seconds are those of workers and participants together on this machine's cores. Connections
stand before all rounds but the first, as they do between rounds.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from bench.common import Part, Target, main
from tercet.federated import Aggregation, Server, Session, join, serve
from tercet.federated.quantise import quantise
from tercet.service.cluster import LocalCluster

#: Participants, parameters, noise, seconds to reach.
CASES = (
    (10, 10**6, 0.0, 0.6),
    (50, 10**6, 0.0, 4.0),
    (50, 10**6, 1.0, 4.0),
    (200, 10**5, 0.0, None),
    (1000, 10**5, 0.0, 10.0),
)
#: The first opens connections and touches memory for the first time.
ROUNDS = 5
#: Participants that send at the same time.
AT_ONCE = 16
SERVER = "server"


def run() -> Part:
    """Run the benchmark."""
    part = Part("aggregate", "one round of secure aggregation")
    for participants, length, noise, reach in CASES:
        row = measure(participants, length, noise)
        part.rows.append(row)
        what = f"{participants} participants, {length:,} parameters, noise {noise:g}"
        if reach is not None:
            part.targets.append(Target(what, row["seconds"], reach, "s"))
        part.targets.append(Target(f"{what}: up", row["MB up"], 16.1, "MB"))
    few, many = part.rows[-2]["sums MB"], part.rows[-1]["sums MB"]
    part.targets.append(Target("memory of a data plane, 1,000 over 200", many / few, 1.2, "times"))
    part.notes.append(f"the fastest of {ROUNDS} rounds; participants simulated in one process")
    part.notes.append(
        "control MB: the process that holds a connection to each participant, some 0.2 MB each "
        "while they stand, and contributions of 96 MB at most"
    )
    return part


def measure(participants: int, length: int, noise: float) -> dict[str, float]:
    """Run some rounds; every sum without noise is checked bit for bit."""
    names = [f"p{i}" for i in range(participants)]
    rng = np.random.default_rng(0)
    some = [
        (rng.standard_normal(length) / length**0.5).astype(np.float32)
        for _ in range(min(participants, 20))
    ]
    updates = [some[i % len(some)] for i in range(participants)]
    with (
        LocalCluster(quiet=True, parties=(*names, SERVER)) as cluster,
        ThreadPoolExecutor(AT_ONCE) as pool,
    ):
        sides = {name: cluster.as_party(name) for name in (*names, SERVER)}
        agreement = Aggregation(
            "bench",
            [sides[n].owner.fingerprint for n in names],
            sides[SERVER].owner.fingerprint,
            length=length,
            minimum=participants,
            bound=1.0,
            noise=noise,
            rounds=ROUNDS,
        )
        server = serve(sides[SERVER], sides[SERVER].owner, agreement)
        sessions = list(pool.map(lambda n: join(sides[n], sides[n].owner, agreement), names))
        try:
            expected = sum(quantise(u, 1.0, server.terms).words for u in updates)
            best, up = float("inf"), 0
            for number in range(ROUNDS):
                seconds, up = _round(number, server, sessions, updates, pool, expected, noise)
                best = min(best, seconds)
                time.sleep(2 if noise else 0.2)  # the next round's noise is drawn meanwhile
            control = max(_peak(pid) for pid in cluster.pids)
            sums = max(_peak(pid) for worker in cluster.pids for pid in _children(worker))
        finally:
            for side in (*sessions, server):
                side.close()
    return {
        "participants": participants,
        "parameters": length,
        "noise": noise,
        "seconds": best,
        "MB up": up / 1e6,
        "control MB": control / 1e6,
        "sums MB": sums / 1e6,
    }


def _round(
    number: int,
    server: Server,
    sessions: list[Session],
    updates: list[np.ndarray],
    pool: ThreadPoolExecutor,
    expected: np.ndarray,
    noise: float,
) -> tuple[float, int]:
    started = time.perf_counter()
    with ThreadPoolExecutor(1) as asking:
        asked = asking.submit(server.aggregate, number)
        receipts = list(pool.map(lambda s, u: s.contribute(number, u), sessions, updates))
        told = asked.result()
    seconds = time.perf_counter() - started
    whole = np.rint(told.sum * 2.0**server.terms.scale).astype(np.int64)
    assert len(told.contributors) == len(sessions)
    assert noise or np.array_equal(whole, expected.view(np.int64))
    return seconds, max(r.bytes_sent for r in receipts)


def _children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _peak(pid: int) -> int:
    """Return the peak of a process's resident memory, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no peak in /proc")


if __name__ == "__main__":
    main(run, __doc__)
