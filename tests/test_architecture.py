"""The rules of the house (DESIGN, section 5), read off the source."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "tercet"
MODULES = sorted(SOURCE.rglob("*.py"))

#: Which packages a package may import (besides itself and ``errors``).
ALLOWED = {
    "errors": set(),
    "children": set(),
    "ring": set(),
    "crypto": set(),
    "net": {"ring", "crypto"},
    "protocol": {"ring", "crypto", "net"},
    "function": {"ring", "crypto", "net", "protocol"},
    "program": {"ring"},
    "runtime": {"ring", "crypto", "net", "protocol", "function", "program"},
    "frontend": {"program", "ring"},
    "data": set(),
    "privacy": {"crypto"},
    "service": {"ring", "crypto", "net", "protocol", "function", "program", "runtime"},
    "preflight": {"ring", "protocol", "function", "program", "runtime", "frontend"},
    "api": {
        "ring", "crypto", "net", "protocol", "function", "program", "runtime", "service",
        "frontend", "preflight",
    },
}  # fmt: skip
ALLOWED["federated"] = ALLOWED["api"] - {"frontend"} | {"privacy"}
ALLOWED["flower"] = ALLOWED["federated"] | {"federated"}
ALLOWED["training"] = ALLOWED["api"] | {"privacy"}
ALLOWED["api"] = ALLOWED["api"] | {"training"}
ALLOWED["cli"] = ALLOWED["api"] | {"api", "data", "privacy"}
ALLOWED["syft"] = ALLOWED["api"] | {"api"}
FRAMEWORKS = {"jax", "jaxlib", "keras", "torch", "tensorflow", "flwr", "h5py"}
LAZY = FRAMEWORKS | {"dp_accounting", "scipy", "matplotlib"}


def package(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """All absolute modules that a file imports, wherever the import stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            found |= {node.module, *(f"{node.module}.{a.name}" for a in node.names)}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_go_downward(path: Path) -> None:
    mine = package(path)
    if mine == "__init__":
        return
    tercet = {i.split(".")[1] for i in imports(path) if i.startswith("tercet.")}
    # `from tercet import api` names the package, `from tercet import __version__` does not.
    tercet -= {mine, "errors", "children", "__version__"}
    assert tercet <= ALLOWED[mine], f"{path} may not import {tercet - ALLOWED[mine]}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_forbidden_imports(path: Path) -> None:
    roots = {i.split(".")[0] for i in imports(path)}
    text = path.read_text()
    if package(path) not in {"frontend", "privacy", "flower"}:
        # For type checkers only.
        allowed = {"keras"} if path.name == "api.py" or package(path) == "training" else set()
        assert roots & FRAMEWORKS <= allowed
    assert not roots & {"pickle", "cloudpickle", "dill", "marshal", "shelve", "random", "secrets"}
    if path != SOURCE / "crypto" / "prg.py":
        assert not re.search(r"os\.urandom|numpy\.random|np\.random", text)
    if package(path) != "net":
        assert "socket" not in roots
    if package(path) == "function":
        concrete = {i for i in imports(path) if i.startswith("tercet.protocol.")}
        assert not any(c.split(".")[2] in {"replicated", "plaintext", "counting"} for c in concrete)


def callers(function: str) -> list[str]:
    return [
        str(path.relative_to(SOURCE))
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == function
    ]


def test_reveal_is_called_in_one_place() -> None:
    assert callers("reveal") == ["runtime/release.py"]
    # A prediction; the metrics of a training and its model.
    assert sorted(callers("release")) == [
        "runtime/batch.py",
        "runtime/chunk.py",
        "runtime/chunk.py",
    ]
    # A sum of contributions, from its file.
    assert callers("release_stored") == ["service/round_closing.py"]
    makers = [p for p in MODULES if "output_part(" in p.read_text()]
    assert {str(p.relative_to(SOURCE)) for p in makers} == {
        "protocol/replicated/sharing.py",
        "runtime/release.py",
    }


def test_the_interpreter_runs_exactly_the_table() -> None:
    from tercet.program.operations import OPERATIONS
    from tercet.runtime.interpreter import LOCAL, ROUNDS

    assert not set(LOCAL) & set(ROUNDS)
    assert set(LOCAL) | set(ROUNDS) == set(OPERATIONS)


def test_worker_and_client_run_without_a_framework() -> None:
    script = (
        "import sys\n"
        f"for name in {sorted(LAZY)}: sys.modules[name] = None\n"
        "import tercet, tercet.api, tercet.service.main, tercet.service.dataplane\n"
        "import tercet.cli.main, tercet.privacy.ledger, tercet.privacy.dp_sgd\n"
        "import tercet.privacy.plan, tercet.privacy.audit.report\n"
        "import tercet.federated.training, tercet.federated.joining\n"
        "tercet.connect, tercet.LocalCluster\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_nothing_in_the_tree_speaks_of_one_machine() -> None:
    root = SOURCE.parents[1]
    for path in [*MODULES, *root.glob("docs/**/*.md"), *root.glob("*.md")]:
        assert str(root) not in path.read_text(), path
