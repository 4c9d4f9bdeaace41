"""``tercet demo``: the story of the original post, from training to three private predictions."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
from numpy.typing import NDArray
from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from tercet import api
from tercet.data import Digits, load_digits
from tercet.errors import ModelError, WorkerError
from tercet.protocol.replicated.sharing import Summand
from tercet.runtime.batch import INPUT_NAME
from tercet.service.cluster import CLUSTER_FILE, DEFAULT_NAMES, LocalCluster

_REQUESTS = 3
_SAMPLE = 256
_CLIENT_TIMEOUT = 60
_SHADES = " .:-=+*#%@"

_console = Console(highlight=False, soft_wrap=False)


def run_demo(data: str | None) -> None:
    """Run the demo; ``data`` is a full mnist.npz or ``None`` for the part that ships."""
    started = time.perf_counter()
    digits = load_digits(data)
    model = _train(digits)
    _console.print("Starting three workers on this machine: " + ", ".join(DEFAULT_NAMES))
    with LocalCluster() as cluster:
        _console.print(
            "Each has an identity of its own; every connection is mutual TLS 1.3. Sharing the "
            "model: its weights leave this process only as shares."
        )
        api.share(model, cluster, name="digits", sample=digits.x_train[:_SAMPLE])
        api.serve("digits", cluster, max_requests=_REQUESTS)
        _console.print(
            f"Serving {_REQUESTS} requests. A client in a process of its own asks about the first "
            f"{_REQUESTS} test images:\n"
        )
        command = [sys.executable, "-m", "tercet.cli", "demo-client"]
        command += ["--cluster", str(cluster.directory / CLUSTER_FILE)]
        command += ["--data", data] if data else []
        try:
            client = subprocess.run(command, timeout=_CLIENT_TIMEOUT, check=False)
        except subprocess.TimeoutExpired:
            raise WorkerError("the client did not finish", "See the messages above") from None
        if client.returncode:
            raise WorkerError("the client failed", "See its message above")
    _console.print(
        f"The {_REQUESTS} requests are used up and the workers are gone. "
        f"({time.perf_counter() - started:.0f} s in all)"
    )


def run_client(cluster_path: str, data: str | None) -> None:
    """Play the client: three images, one request each."""
    digits = load_digits(data)
    images = digits.x_test[:_REQUESTS]
    costs = []
    with api.connect(api.Cluster.load(cluster_path)) as client:
        for image, label in zip(images, digits.y_test, strict=False):
            logits = np.asarray(client.predict("digits", image[None]))
            print(f"Actual: {label}, predicted: {int(np.argmax(logits))}", flush=True)
            costs.append(client.last_cost)
        share = client.last_shares[1][1]
    print()
    for number, cost in enumerate(costs, 1):
        assert cost is not None
        kilobytes, upload = cost.bytes / 1e3, cost.upload_bytes / 1e3
        print(
            f"request {number}: {cost.seconds * 1e3:6.1f} ms, of which "
            f"{cost.compute_seconds * 1e3:.1f} ms in the protocol; {kilobytes:.0f} KB between the "
            f"workers, {cost.rounds} rounds; {upload:.1f} KB sent by the client"
        )
    _show(images[-1][..., 0], share)


def _train(digits: Digits) -> object:
    try:
        from tercet.frontend.digits import train_digits

        with Progress(
            TextColumn("Training for one epoch"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.3f}"),
            console=_console,
        ) as progress:
            task = progress.add_task("train", total=None, loss=0.0)
            model = train_digits(
                digits.x_train,
                digits.y_train,
                report=lambda done, total, loss: progress.update(
                    task, completed=done, total=total, loss=loss
                ),
            )
    except ImportError as error:
        raise ModelError(
            f"the demo trains a Keras model, and {error.name} is not installed",
            "pip install 'tercet[keras]'",
        ) from None
    predicted = model.predict(digits.x_test, verbose=0).argmax(1)
    accuracy = float(np.mean(predicted == digits.y_test))
    _console.print(f"Plaintext accuracy on {len(digits.y_test)} test images: {accuracy:.1%}")
    return model


def _show(image: NDArray[np.float32], share: Summand) -> None:
    """Print the image beside one of the shares that the client sent out for it."""
    words = share.expand(INPUT_NAME, (1, 28, 28, 1))
    noise = (words >> np.uint64(56)).reshape(28, 28).astype(np.float32) / np.float32(255)
    panels = [
        Panel(_picture(image), title="the client's image", expand=False),
        Panel(_picture(noise), title="what one worker got of it", expand=False),
    ]
    _console.print(Columns(panels))


def _picture(values: NDArray[np.float32]) -> str:
    """Draw an image of even height; a character stands for two pixels, one above the other."""
    pairs = (values[0::2] + values[1::2]) / 2
    index = np.minimum((pairs * len(_SHADES)).astype(int), len(_SHADES) - 1)
    return "\n".join("".join(_SHADES[v] for v in row) for row in index)
