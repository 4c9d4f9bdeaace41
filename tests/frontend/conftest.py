"""Keras must run on JAX before any test module imports it."""

from __future__ import annotations

import os

os.environ.setdefault("KERAS_BACKEND", "jax")
