"""Federated learning: the data stays where it is, and only sums of updates are opened."""

from tercet.federated.aggregation import (
    Aggregate,
    Aggregation,
    Receipt,
    Server,
    Session,
    join,
    serve,
)

__all__ = ["Aggregate", "Aggregation", "Receipt", "Server", "Session", "join", "serve"]
