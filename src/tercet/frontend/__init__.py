"""Frontends: tracing a model of a machine-learning framework to a program.

Importing this package imports no framework; ``trace_keras`` and ``trace`` import theirs when
called.
"""
