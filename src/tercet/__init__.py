"""Tercet: encrypted deep learning on three workers that see neither the model nor the data."""

__version__ = "0.1.0"
