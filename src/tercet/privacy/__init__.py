"""Differential privacy: accounting, a ledger of what was spent, private training, audits.

Needs the extra ``privacy`` (``pip install 'tercet[privacy]'``); nothing of it is imported before
it is used.
"""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "fit": "tercet.privacy.dp_sgd",
    "Account": "tercet.privacy.dp_sgd",
    "Ledger": "tercet.privacy.ledger",
    "Budget": "tercet.privacy.ledger",
    "Relation": "tercet.privacy.events",
    "GaussianSum": "tercet.privacy.events",
    "IntegerSum": "tercet.privacy.events",
    "epsilon": "tercet.privacy.accounting",
    "noise_multiplier": "tercet.privacy.accounting",
}

__all__ = sorted(_WHERE)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
