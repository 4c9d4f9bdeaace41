"""All benchmarks with one command, one after the other, each in a process of its own.

    python -m bench [NAME...] [--list]

Writes ``bench/results/NAME.json`` and, if matplotlib is there, ``bench/results/bench.png``.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time

from bench.common import RESULTS, Target, line, trained_digits

#: Each part and the seconds after which it is given up.
PARTS = {
    "kernels": 90,
    "rounds": 60,
    "micro": 90,
    "predict": 120,
    "growth": 120,
    "sustained": 120,
    "slow": 120,
    "first": 120,
    "resnet50": 180,
    "bert": 180,
    "private": 60,
    "aggregate": 300,
    "federated": 240,
    "training": 180,
}


def run(name: str, limit: float) -> bool:
    """Run one part; return whether it came to its end."""
    path = RESULTS / f"{name}.json"
    path.unlink(missing_ok=True)
    command = [sys.executable, "-m", f"bench.{name}", "--json", str(path)]
    with subprocess.Popen(command) as process:
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            print(f"{name}: not done after {limit:g} s", flush=True)
            return False
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)  # it ends its own processes
                try:
                    process.wait(15)
                except subprocess.TimeoutExpired:
                    process.kill()  # workers and relays end when their parent does
    return process.returncode == 0 and path.exists()


def summary(names: list[str]) -> None:
    """Print all targets of the parts that were run."""
    print("\nEvery figure beside its target:")
    for name in names:
        path = RESULTS / f"{name}.json"
        if not path.exists():
            print(f"{name}: FAILED")
            continue
        targets = json.loads(path.read_text(encoding="utf-8"))["targets"]
        if targets:
            print(name)
        for target in targets:
            target.pop("met")
            print(line(Target(**target)))


def main() -> int:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("parts", nargs="*", metavar="NAME", help=f"of {', '.join(PARTS)}; or all")
    parser.add_argument("--list", action="store_true", help="name the parts and stop")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(PARTS))
        return 0
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    names = [p for p in PARTS if p in arguments.parts] if arguments.parts else list(PARTS)
    started = time.perf_counter()
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "digits.keras").unlink(missing_ok=True)
    if set(names) & {"predict", "growth", "sustained", "slow", "first"}:
        print("Training the post's CNN for one epoch", flush=True)
        trained_digits()
    done = []
    for name in names:
        print(flush=True)
        done.append(run(name, PARTS[name]))
    summary(names)
    try:
        from bench.plot import draw
    except ImportError as error:
        print(f"No plot: {error.name} is not installed (pip install 'tercet[bench]')")
    else:
        print(f"Plot: {draw().relative_to(RESULTS.parents[1])}")
    print(f"{time.perf_counter() - started:.0f} s in all; JSON in bench/results/")
    return 0 if all(done) else 1


if __name__ == "__main__":
    sys.exit(main())
