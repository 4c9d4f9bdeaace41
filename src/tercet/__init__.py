"""Tercet: encrypted deep learning on three workers that see neither the model nor the data."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tercet.api import (
        Client,
        Cluster,
        Description,
        LocalCluster,
        Lowered,
        TopK,
        Training,
        TrainingProgress,
        connect,
        find_training,
        fit,
        lower,
        propose,
        remove,
        serve,
        share,
        stop,
    )
    from tercet.errors import TercetError

__version__ = "0.1.0"

__all__ = [
    "Client",
    "Cluster",
    "Description",
    "LocalCluster",
    "Lowered",
    "TercetError",
    "TopK",
    "Training",
    "TrainingProgress",
    "__version__",
    "connect",
    "find_training",
    "fit",
    "lower",
    "propose",
    "remove",
    "serve",
    "share",
    "stop",
]


def __getattr__(name: str) -> Any:
    """Load the public face on first use, so that `import tercet` is light."""
    if name in __all__:
        module = "tercet.errors" if name == "TercetError" else "tercet.api"
        return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module 'tercet' has no attribute {name!r}")
