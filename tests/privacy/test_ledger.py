"""The ledger: durable, private, and it says no."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tercet.errors import ConfigError, InputError, NotFoundError, RefusedError
from tercet.privacy.accounting import epsilon
from tercet.privacy.events import GaussianSum, IntegerSum, Relation
from tercet.privacy.ledger import Budget, Ledger

RUN = GaussianSum(10.0, 10, 0.5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def test_runs_add_up_and_the_last_is_refused(path: Path) -> None:
    ledger = Ledger(path)
    one, two, three = (epsilon([RUN] * n, 1e-5).epsilon for n in (1, 2, 3))
    ledger.allow("ward", "digits", Budget((two + three) / 2, 1e-5))
    assert ledger.spent("ward", "digits").epsilon == 0
    assert ledger.spend("ward", "digits", [RUN]).epsilon == pytest.approx(one)
    assert ledger.spend("ward", "digits", [RUN]).epsilon == pytest.approx(two)
    with pytest.raises(RefusedError, match=f"{three:.3f}; {two:.3f} of"):
        ledger.spend("ward", "digits", [RUN])
    assert len(ledger.events("ward", "digits")) == 2
    # Less noise for the rest would be refused too; a cheap run fits.
    ledger.spend("ward", "digits", [GaussianSum(100.0)])
    assert ledger.spent("ward", "digits").epsilon > two


def test_exactly_the_budget_may_be_spent(path: Path) -> None:
    ledger = Ledger(path)
    ledger.allow("ward", "digits", Budget(epsilon([RUN], 1e-5).epsilon, 1e-5))
    ledger.spend("ward", "digits", [RUN])


def test_nothing_is_spent_without_a_budget(path: Path) -> None:
    ledger = Ledger(path)
    ledger.allow("ward", "digits", Budget(3.0, 1e-5))
    for owner, model in (("ward", "scans"), ("lab", "digits")):
        with pytest.raises(NotFoundError):
            ledger.spend(owner, model, [RUN])
    assert ledger.events("ward") == []


def test_mixed_events_survive_a_restart(path: Path) -> None:
    events = [RUN, IntegerSum(400.0, 10.0, 1000, count=3), GaussianSum(50.0)]
    ledger = Ledger(path)
    ledger.allow("ward", "digits", Budget(9.0, 1e-5))
    spent = ledger.spend("ward", "digits", events)
    ledger.close()
    again = Ledger(path)
    assert again.events("ward", "digits") == events
    assert again.spent("ward", "digits") == spent
    assert spent.accountant == "RDP"


def test_a_run_that_has_a_name_counts_once(path: Path) -> None:
    ledger = Ledger(path)
    for owner in ("ward", "lab"):
        ledger.allow(owner, "digits", Budget(epsilon([RUN], 1e-5).epsilon, 1e-5))
    once = ledger.spend("ward", "digits", [RUN], run="one")
    ledger.close()
    again = Ledger(path)
    assert again.spend("ward", "digits", [RUN], run="one") == once
    assert again.events("ward", "digits") == [RUN]
    with pytest.raises(RefusedError):
        again.spend("ward", "digits", [RUN], run="two")
    with pytest.raises(RefusedError):  # nor was it entered when it was refused
        again.spend("ward", "digits", [RUN], run="two")
    again.spend("lab", "digits", [RUN], run="one")
    assert again.events("lab") == [RUN]


def test_models_are_apart_and_together(path: Path) -> None:
    ledger = Ledger(path)
    for model in ("digits", "scans"):
        ledger.allow("ward", model, Budget(9.0, 1e-5))
        ledger.spend("ward", model, [RUN])
    one, two = (epsilon([RUN] * n, 1e-5).epsilon for n in (1, 2))
    assert ledger.spent("ward", "scans").epsilon == pytest.approx(one)
    both = ledger.spent_on_all_models("ward", 1e-5, Relation.ADD_OR_REMOVE)
    assert both.epsilon == pytest.approx(two)


def test_a_killed_run_stays_charged(path: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "from tercet.privacy import Budget, GaussianSum, Ledger\n"
        "ledger = Ledger(sys.argv[1])\n"
        "ledger.allow('ward', 'digits', Budget(3.0, 1e-5))\n"
        "ledger.spend('ward', 'digits', [GaussianSum(10.0, 10, 0.5)])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert Ledger(path).events("ward", "digits") == [RUN]


def test_runs_that_race_do_not_overspend(path: Path) -> None:
    Ledger(path).allow("ward", "digits", Budget(epsilon([RUN], 1e-5).epsilon * 1.01, 1e-5))
    script = (
        "import sys\n"
        "from tercet.errors import RefusedError\n"
        "from tercet.privacy import GaussianSum, Ledger\n"
        "ledger = Ledger(sys.argv[1])\n"
        "sys.stdin.read()\n"
        "try: ledger.spend('ward', 'digits', [GaussianSum(10.0, 10, 0.5)])\n"
        "except RefusedError: sys.exit(3)\n"
    )
    racers = [
        subprocess.Popen([sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE)
        for _ in range(3)
    ]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.close()
    assert sorted(racer.wait(200) for racer in racers) == [0, 3, 3]
    assert len(Ledger(path).events("ward", "digits")) == 1


def test_the_file_is_private(path: Path) -> None:
    before = os.umask(0)
    try:
        Ledger(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="others may read"):
        Ledger(path)


def test_what_is_no_ledger_is_refused(path: Path, tmp_path: Path) -> None:
    path.touch(0o600)
    path.write_bytes(b"not a database at all, but long enough to be taken for one" * 40)
    for bad in (path, tmp_path / "nowhere" / "ledger.db"):
        with pytest.raises(ConfigError, match="cannot use"):
            Ledger(bad)


def test_a_damaged_event_is_not_skipped(path: Path) -> None:
    ledger = Ledger(path)
    ledger.allow("ward", "digits", Budget(3.0, 1e-5))
    ledger.spend("ward", "digits", [RUN])
    ledger._db.execute("UPDATE events SET event = replace(event, '10', '-1')")
    with pytest.raises(ConfigError, match="event that is none"):
        ledger.spent("ward", "digits")


def test_budgets_keep_delta_and_relation(path: Path) -> None:
    ledger = Ledger(path)
    ledger.allow("ward", "digits", Budget(3.0, 1e-5))
    ledger.allow("ward", "digits", Budget(4.0, 1e-5))
    assert ledger.budgets() == {("ward", "digits"): Budget(4.0, 1e-5)}
    for other in (Budget(4.0, 1e-6), Budget(4.0, 1e-5, Relation.REPLACE)):
        with pytest.raises(RefusedError):
            ledger.allow("ward", "digits", other)
    for bad in (Budget(0.0, 1e-5), Budget(float("nan"), 1e-5), Budget(1.0, 1.0)):
        with pytest.raises(InputError):
            ledger.allow("ward", "scans", bad)


def tercet(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tercet.cli", "privacy", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_command_line(path: Path) -> None:
    budget = ("--epsilon", 1, "--delta", 1e-5)
    planned = tercet("plan", *budget, "--examples", 6000, "--batch", 60, "--epochs", 3, "--json")
    assert planned.returncode == 0, planned.stderr
    made = json.loads(planned.stdout)
    assert (made["rounds"], made["sampling_rate"], made["sampler"]) == (300, 0.01, "Poisson")
    assert 0.998 < made["epsilon"] <= 1
    table = tercet("plan", *budget, "--rounds", 60, "--clip", 1, "--parameters", 1000)
    assert "variance of a worker's share" in table.stdout
    assert tercet("allow", "ward", "digits", *budget, "--ledger", path).returncode == 0
    Ledger(path).spend("ward", "digits", [GaussianSum(made["noise_multiplier"], 300, 0.01)])
    (row,) = json.loads(tercet("spent", "--ledger", path, "--json").stdout)
    assert row["epsilon"] == pytest.approx(made["epsilon"])
    assert (row["relation"], row["samplers"]) == ("add-or-remove-one", ["Poisson"])
    assert "ward" in tercet("spent", "--ledger", path).stdout


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--rounds", 6, "--epochs", 3),
        ("--examples", 6, "--batch", 2),
        ("--rounds", 6, "--clip", 1),
    ],
)
def test_unclear_plans_are_refused(arguments: tuple[object, ...]) -> None:
    done = tercet("plan", "--epsilon", 3, "--delta", 1e-5, *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
