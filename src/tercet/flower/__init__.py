"""Secure aggregation for Flower apps: a strategy around any other, and a mod for the client.

    strategy = SecureStrategy(FedAvg(), cluster, clip_norm=1.0)     # in the ServerApp

    @app.train(mods=[secure_mod()])                                 # in the ClientApp

Needs the extra ``flower`` (``pip install 'tercet[flower]'``).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tercet.flower.mod import Settings, secure_mod
    from tercet.flower.strategy import SecureStrategy

__all__ = ["SecureStrategy", "Settings", "secure_mod"]

_WHERE = {
    "SecureStrategy": "tercet.flower.strategy",
    "Settings": "tercet.flower.mod",
    "secure_mod": "tercet.flower.mod",
}


def __getattr__(name: str) -> Any:
    """Load on first use, and Flower with it."""
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
