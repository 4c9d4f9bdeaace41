"""What would work instead of an operation that has no rule yet."""

from __future__ import annotations

_INDEX = "Look the rows up (or one-hot encode) where the data is still plain, and feed the result"
_LOOP = "Loop a fixed number of times (lax.scan, lax.fori_loop with constant bounds)"
_RANKED = "Rank at most 65,536 numbers along one axis, or release the scores and rank them there"
_RELEASED = "Apply it to the released values"

#: Primitive -> (what people call it, what works instead).
HINTS: dict[str, tuple[str, str]] = {
    "div": (
        "division",
        "Divide real numbers (x.astype(float)), by a constant or by a secret value",
    ),
    "pow": ("power", "Use a public exponent between -16 and 16"),
    "scan": ("a loop", _LOOP),
    "while": ("a loop that ends by its data (while)", _LOOP),
    "cond": ("branch on a secret value", "Compute both branches and select one"),
    "gather": ("table lookup", _INDEX),
    "dynamic_slice": ("lookup at a secret place", _INDEX),
    "dynamic_update_slice": ("update at a secret place", _INDEX),
    "to_integer": ("rounding a secret value to an index", _INDEX),
    "scatter": ("update of a table", _INDEX),
    "argmax": ("argmax", _RANKED),
    "argmin": ("argmin", _RANKED),
    "top_k": ("top-k", _RANKED),
    "dtype": ("arithmetic", "Compute in float32: x.astype(jnp.float32), module.float()"),
    "rand": ("random numbers", "Draw none in inference: module.eval() turns dropout off"),
    "rand_like": ("random numbers", "Draw none in inference: module.eval() turns dropout off"),
    "randn_like": ("random numbers", "Draw none in inference: module.eval() turns dropout off"),
    "sort": (
        "sorting",
        "Sort one array of at most 4,096 numbers by itself; use the places (argsort) for others",
    ),
    "cumprod": ("cumulative product (cumprod)", "Sum logarithms, or unroll the products"),
    "cumlogsumexp": ("cumulative log-sum-exp", "Use cumsum of exponentials, then log"),
    "cummax": ("cumulative maximum", "Use maximum over slices"),
    "sin": ("sine (sin)", "Compute it where the data is plain, or use a polynomial"),
    "cos": ("cosine (cos)", "Compute it where the data is plain, or use a polynomial"),
    "floor": ("rounding", _RELEASED),
    "ceil": ("rounding", _RELEASED),
    "round": ("rounding", _RELEASED),
    "rem": ("remainder", _RELEASED),
    "reduce_window": ("window function", "Use max or average pooling"),
    "reduce_prod": ("product over an axis", "Multiply slices, or sum logarithms"),
}


def describe(primitive: str) -> tuple[str, str]:
    """Return a readable name of ``primitive`` and what works instead."""
    # Operations of PyTorch share the names: aten.cumprod.default, higher_order.cond.
    stem = primitive.split(".")[1] if "." in primitive else primitive
    common, remedy = HINTS.get(stem, ("", ""))
    if stem == "dtype":
        return common, remedy
    told = not common or common == primitive or f"({primitive})" in common
    name = (common or primitive) if told else f"{common} ({primitive})"
    return name, remedy or "Leave the layer out, or compute it before encryption or after release"
