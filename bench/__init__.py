"""Benchmarks: ``python -m bench`` runs all parts, ``python -m bench NAME...`` some."""
