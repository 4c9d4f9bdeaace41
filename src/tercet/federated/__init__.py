"""Federated learning: the data stays where it is, and only sums of updates are opened.

    history = tercet.federated.train(model, participants, cluster, rounds=20, clip_norm=1.0)

Loaded on first use, since training needs more than workers and clients have.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tercet.federated.aggregation import (
        Aggregate,
        Aggregation,
        Receipt,
        Server,
        Session,
        join,
        serve,
    )
    from tercet.federated.history import History, Round
    from tercet.federated.joining import participate
    from tercet.federated.noise import UserLevel
    from tercet.federated.participant import Participant
    from tercet.federated.remote import Coordinator
    from tercet.federated.trainers import KerasTrainer, PrivateKerasTrainer
    from tercet.federated.training import train

__all__ = [
    "Aggregate",
    "Aggregation",
    "Coordinator",
    "History",
    "KerasTrainer",
    "Participant",
    "PrivateKerasTrainer",
    "Receipt",
    "Round",
    "Server",
    "Session",
    "UserLevel",
    "join",
    "participate",
    "serve",
    "train",
]

_WHERE = {
    "aggregation": ("Aggregate", "Aggregation", "Receipt", "Server", "Session", "join", "serve"),
    "history": ("History", "Round"),
    "joining": ("participate",),
    "noise": ("UserLevel",),
    "participant": ("Participant",),
    "remote": ("Coordinator",),
    "trainers": ("KerasTrainer", "PrivateKerasTrainer"),
    "training": ("train",),
}


def __getattr__(name: str) -> Any:
    for module, names in _WHERE.items():
        if name in names:
            return getattr(importlib.import_module(f"tercet.federated.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
