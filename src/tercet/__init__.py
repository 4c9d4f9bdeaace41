"""Tercet: encrypted deep learning on three workers that see neither the model nor the data."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tercet.api import (
        DPSGD,
        Client,
        Cluster,
        Description,
        LocalCluster,
        Lowered,
        Preflight,
        TopK,
        Traced,
        Training,
        TrainingProgress,
        check,
        connect,
        find_training,
        fit,
        lower,
        propose,
        remove,
        serve,
        share,
        stop,
        trace,
    )
    from tercet.errors import TercetError

__version__ = "0.1.0"

__all__ = [
    "DPSGD",
    "Client",
    "Cluster",
    "Description",
    "LocalCluster",
    "Lowered",
    "Preflight",
    "TercetError",
    "TopK",
    "Traced",
    "Training",
    "TrainingProgress",
    "__version__",
    "check",
    "connect",
    "find_training",
    "fit",
    "lower",
    "propose",
    "remove",
    "serve",
    "share",
    "stop",
    "trace",
]


def __getattr__(name: str) -> Any:
    """Load the public face on first use, so that `import tercet` is light."""
    if name in __all__:
        module = "tercet.errors" if name == "TercetError" else "tercet.api"
        return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module 'tercet' has no attribute {name!r}")
