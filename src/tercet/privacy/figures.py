"""Pictures for reports: matplotlib without a window, embedded in pages that need no network."""

from __future__ import annotations

import base64
import io
from typing import Any

from tercet.errors import ConfigError

Figure = Any
"""A figure of matplotlib, which is imported when one is drawn."""


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of that many inches.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError(
            "matplotlib is not installed", "Install the extra: pip install 'tercet[privacy]'"
        ) from None
    return Figure(figsize=(width, height), layout="constrained")


def embed(figure: Figure) -> str:
    """Return the figure as an HTML element that holds the picture itself."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110)
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}">'
