"""Tercet beside its peers: the same work, each in its own environment."""
