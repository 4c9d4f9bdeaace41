"""The type of what belongs to a framework that is not imported here."""

from __future__ import annotations

from typing import Any, TypeAlias

#: A model, a jaxpr, an array of JAX: its class is known only where the framework is.
Foreign: TypeAlias = Any
