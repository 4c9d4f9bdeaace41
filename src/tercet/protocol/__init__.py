"""Protocols on secret-shared values: the abstract one, a reference, a counter, replicated."""
