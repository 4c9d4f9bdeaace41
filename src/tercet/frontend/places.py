"""Where in a user's own code an operation was written."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

from tercet.frontend.foreign import Foreign

_OURS = str(Path(__file__).parents[1])


def user_line(traceback: Foreign) -> str:
    """Return ``model.py:12`` for a traceback of JAX; "" if frameworks wrote the operation."""
    for frame in traceback.frames if traceback is not None else ():
        file = frame.file_name
        if file.startswith(_OURS):
            return ""  # what called Tercet has written no operation
        if not file.startswith((*_frameworks(), "<frozen")):
            return f"{Path(file).name}:{frame.line_num}"
    return ""


@cache
def _frameworks() -> tuple[str, ...]:
    modules = (sys.modules.get(name) for name in ("jax", "jaxlib", "keras", "torch", "numpy"))
    return tuple(str(Path(m.__file__).parent) for m in modules if m is not None and m.__file__)
