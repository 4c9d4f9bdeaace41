"""The 2019 API as it was meant: share, serve, ask, stop."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import tercet
from tercet.errors import InputError, NotFoundError, RefusedError
from tercet.syft import TFEClient, TFECluster, TFEWorker
from tercet.syft.hook import MODEL
from tests.syft.conftest import Serving, cluster_of, python


def asked(client: TFEClient, rows: np.ndarray) -> np.ndarray:
    """Ask as soon as the model is served."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return client.query_model(rows)
        except RefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_share_serve_ask_stop(cluster: TFECluster, model, hosts, capsys) -> None:
    rows = np.random.default_rng(0).normal(0, 1, (5, 8))
    expected = model.predict(rows, verbose=0)
    model.share(cluster)
    # In another order and spelling, and with R's floats: the same cluster.
    same = cluster_of([h.replace("localhost", "127.0.0.1") for h in reversed(hosts)])
    client = TFEWorker()
    client.connect_to_model([1.0, 8.0], (None, 3.0), same)
    for times in (3.0, 2):
        serving = Serving(model, times)
        np.testing.assert_allclose(asked(client, rows), expected, atol=2e-3)
        for left in range(1, int(times)):
            one = client.query_model(rows[left : left + 1])
            np.testing.assert_allclose(one, expected[left : left + 1], atol=2e-3)
        serving.join()
        assert serving.error is None
        with pytest.raises(RefusedError, match="answered its"):
            client.query_model(rows)
        lines = capsys.readouterr().out.splitlines()
        assert lines[1:] == [
            f"Served encrypted prediction {i} to client." for i in range(1, int(times) + 1)
        ]
    client.close()
    model.stop()
    with pytest.raises(NotFoundError, match="no model is shared"):
        client.connect_to_model((1, 8), (1, 3), same)
    model.share(cluster)  # and once more
    model.stop()


def test_questions_under_way_are_answered_in_order(cluster: TFECluster, model) -> None:
    rows = np.random.default_rng(1).normal(0, 1, (6, 8))
    expected = model.predict(rows, verbose=0)
    model.share(cluster)
    serving = Serving(model, 9)
    first, second = TFEClient(), TFEClient()
    for client in (first, second):
        client.connect_to_model((1, 8), (1, 3), cluster)
    asked(first, rows)
    for i in range(4):
        first.query_model_async(rows[i][None])
        second.query_model_async(rows[5 - i][None])
    for i in range(4):
        np.testing.assert_allclose(first.query_model_join()[0], expected[i], atol=2e-3)
        np.testing.assert_allclose(second.query_model_join()[0], expected[5 - i], atol=2e-3)
    with pytest.raises(InputError, match="no query is under way"):
        first.query_model_join()
    serving.join()
    assert serving.error is None
    first.close()
    second.close()


def test_the_answer_is_out_before_serve_returns(cluster: TFECluster, model) -> None:
    """The last request is counted early; taking the model away at once must not spoil it."""
    model.share(cluster)
    client = TFEClient()
    client.connect_to_model((1, 8), (1, 3), cluster)
    rows = np.zeros((3000, 8))
    for _ in range(3):
        serving = Serving(model, 1)
        answer = asked(client, rows)
        serving.join()
        assert answer.shape == (3000, 3)
    serving = Serving(model, 1)
    with tercet.connect(cluster.tercet) as looking:
        while looking.describe(MODEL).used_requests:  # until counting has begun afresh
            time.sleep(0.05)
    client.query_model_async(rows)
    serving.join()
    model.stop()
    assert client.query_model_join().shape == (3000, 3)
    client.close()


@pytest.mark.parametrize("pause", [0.0, 0.2])
def test_interrupt_ends_serving_cleanly(
    pause: float, hosts: list[str], home: Path, tmp_path: Path
) -> None:
    script = tmp_path / "serve.py"
    script.write_text(
        f"""
import os
os.environ["KERAS_BACKEND"] = "jax"
import keras
from tercet import syft as sy
sy.KerasHook(keras)
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
cluster = sy.TFECluster(*(sy.TFEWorker(h) for h in {hosts!r}))
cluster.start()
model.share(cluster)
model.serve(None)
model.stop()
cluster.stop()
print("end")
"""
    )
    process = python(script, environment={"TERCET_HOME": str(home)})
    assert process.stdout is not None
    assert process.stdout.readline() == "Serving; Ctrl-C ends it.\n"
    time.sleep(pause)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert out == "Interrupted: the model is not served any more.\nend\n"
    assert "Traceback" not in err


def test_a_client_needs_no_framework() -> None:
    code = (
        "import sys\n"
        "for name in ('jax', 'keras', 'h5py'): sys.modules[name] = None\n"
        "import tercet.syft\n"
        "tercet.syft.TFEWorker()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    light = "import sys, tercet; assert not {'tercet.syft', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", light], check=True, timeout=60)
