"""The scripts of the original post, as a user runs them: two processes."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tercet.data import Digits
from tests.syft.conftest import cluster_of, home, hosts, python  # noqa: F401

EXAMPLES = Path(__file__).parents[2] / "examples" / "syft_2019"


def test_the_post_in_two_processes(
    saved: Path,
    digits: Digits,
    home: Path,  # noqa: F811
    hosts: list[str],  # noqa: F811
    tmp_path: Path,
) -> None:
    scripts = []
    for name in ("serve.py", "client.py"):
        text = (EXAMPLES / name).read_text()
        for port, host in zip((4000, 4001, 4002), hosts, strict=True):
            assert f"localhost:{port}" in text
            text = text.replace(f"localhost:{port}", host)
        scripts.append(tmp_path / name)
        scripts[-1].write_text(text)
    environment = {"TERCET_HOME": str(home)}
    serve = python(scripts[0], saved, environment=environment)
    try:
        assert serve.stdout is not None
        assert serve.stdout.readline() == "Serving 3 requests.\n"
        bare = tmp_path / "bare"  # a Python that has no framework
        bare.mkdir()
        for name in ("jax", "keras", "h5py", "torch"):
            (bare / f"{name}.py").write_text(f"raise ImportError('a client imports {name}')\n")
        client = python(scripts[1], environment={**environment, "PYTHONPATH": str(bare)})
        out, err = client.communicate(timeout=60)
        assert client.returncode == 0, err
        assert out == "".join(f"Actual:  {n} , predicted:  {n}\n" for n in digits.y_test[:3])
        assert out.startswith("Actual:  7 , predicted:  7\n")
        out, err = serve.communicate(timeout=60)
        assert serve.returncode == 0, err
        assert out == "".join(f"Served encrypted prediction {i} to client.\n" for i in (1, 2, 3))
    finally:
        serve.kill()
        serve.wait()
    # No process is left: all ports are free again, for workers that begin empty.
    again = cluster_of(hosts)
    again.start()
    again.stop()
    assert subprocess.run(["pgrep", "-f", str(home)], check=False).returncode == 1
