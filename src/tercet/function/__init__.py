"""Non-linear functions, written on the abstract protocol alone."""
