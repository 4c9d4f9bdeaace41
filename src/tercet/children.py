"""What child processes of this one inherit."""

from __future__ import annotations

import os


def environment(**changes: str) -> dict[str, str]:
    """Return this process's environment, fit for another Python, with ``changes``.

    R begins LD_LIBRARY_PATH with the system's libraries. Python inside R has its own libpython
    loaded already; a child would find the system's instead, and not start.
    """
    inherited = dict(os.environ)
    if "R_HOME" in inherited:
        inherited.pop("LD_LIBRARY_PATH", None)
    return inherited | changes
