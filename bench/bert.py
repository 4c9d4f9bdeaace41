"""An encoder of the size of BERT-base: 12 layers, 768 wide, 12 heads, 128 tokens, one row.

    python -m bench.bert [--json FILE]

Weights are random and secret, the embedded tokens are secret. PyTorch makes the module.
"""

from __future__ import annotations

import time

import numpy as np

import tercet
from bench.common import Part, Target, main, worker_peaks

LENGTH, WIDTH = 128, 768


def run() -> Part:
    """Run the benchmark."""
    import torch

    part = Part("bert", "BERT-base-sized encoder, 128 tokens, model and input secret")
    torch.manual_seed(1)
    layer = torch.nn.TransformerEncoderLayer(
        WIDTH, 12, 4 * WIDTH, activation="gelu", batch_first=True
    )
    encoder = torch.nn.TransformerEncoder(layer, 12, enable_nested_tensor=False).eval()
    x = torch.randn(1, LENGTH, WIDTH)
    with torch.no_grad():
        expected = encoder(x).numpy()
    started = time.perf_counter()
    lowered = tercet.lower(encoder, sample=x.numpy(), example_inputs=x)
    lowering = time.perf_counter() - started
    with tercet.LocalCluster(quiet=True) as cluster:
        started = time.perf_counter()
        tercet.share(lowered, cluster, "encoder")
        tercet.serve("encoder", cluster)
        sharing = time.perf_counter() - started
        with tercet.connect(cluster) as client:
            started = time.perf_counter()
            answer = client.predict("encoder", x.numpy())
            seconds = time.perf_counter() - started
            cost = client.last_cost
            assert cost is not None
            plane, worker = worker_peaks(cluster.pids)
    error = float(np.abs(answer - expected).max() / np.ptp(expected))
    part.rows.append(
        {
            "lower_s": lowering,
            "share_s": sharing,
            "first_request_s": seconds,
            "forward_ms": cost.compute_seconds * 1e3,
            "gigabytes": cost.bytes / 1e9,
            "rounds": cost.rounds,
            "data_plane_peak_GB": plane / 1e9,
            "worker_peak_GB": worker / 1e9,
            "error_of_spread": error,
        }
    )
    part.targets += [
        Target("one row", seconds, 40, "s"),
        Target("between the workers", cost.bytes / 1e9, 6, "GB"),
        Target("largest error, of the spread", error, 1e-2, ""),
    ]
    part.notes.append("published: PUMA 34 s and 10.8 GB on three large machines")
    return part


if __name__ == "__main__":
    main(run, __doc__)
