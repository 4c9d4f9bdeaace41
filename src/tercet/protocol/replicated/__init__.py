"""Replicated secret sharing among three workers, semi-honest."""
