"""Arithmetic in Z_2^64: fixed point, kernels, local operations and the slow oracle."""
