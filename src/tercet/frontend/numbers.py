"""Which numbers a model may be made of: float32, whole numbers, truth values.

All arithmetic is the program's fixed point. A model in more bits or in fewer would not get what it
asks for, so it is refused and not converted without notice; data that is asked about is converted.
"""

from __future__ import annotations

import numpy as np

from tercet.frontend.foreign import Foreign


def is_narrowed(dtype: Foreign) -> bool:
    """Return whether a dtype, or its name, is of real numbers other than float32."""
    return "float" in str(dtype) and str(dtype) != "float32"


def is_supported(dtype: Foreign) -> bool:
    """Return whether values of a NumPy dtype may be computed."""
    return not is_narrowed(dtype) and np.dtype(dtype).kind in "fiub"
