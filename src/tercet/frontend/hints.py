"""What would work instead of an operation that has no rule yet."""

from __future__ import annotations

_SCORES = (
    "Use ReLU inside the model, or leave the activation off the last layer and apply it to the "
    "released scores"
)
_NORM = "Of the normalisations use BatchNormalization, which divides no secret value"
_INDEX = "Look the rows up (or one-hot encode) where the data is still plain, and feed the result"
_RECURRENT = "Use Conv1D with pooling over the time axis, or Dense layers on the flattened sequence"

_EQUAL = "Compare with greater or less; use ReLU in place of softplus or mish"

#: Primitive -> (what people call it, what works instead).
HINTS: dict[str, tuple[str, str]] = {
    "logistic": ("sigmoid", _SCORES),
    "tanh": ("tanh", _SCORES),
    "erf": ("GELU", "Use ReLU in place of GELU"),
    "erfc": ("GELU", "Use ReLU in place of GELU"),
    "exp": ("exponential", "Softmax over one axis is supported as a whole. " + _SCORES),
    "exp2": ("exponential", _SCORES),
    "expm1": ("ELU or SELU", "Use ReLU or LeakyReLU"),
    "log": ("logarithm", "Release the probabilities and take the logarithm of them"),
    "log1p": ("softplus", "Use ReLU in place of softplus, softsign or mish"),
    "rsqrt": ("reciprocal square root", _NORM),
    "sqrt": ("square root", _NORM),
    "div": ("division by a secret value", "Divide by a constant. " + _NORM),
    "pow": ("power", "Use a small whole exponent"),
    "scan": ("a loop, as recurrent layers do", _RECURRENT),
    "while": ("a loop", _RECURRENT),
    "cond": ("branch on a secret value", "Compute both branches and select one"),
    "gather": ("table lookup", _INDEX),
    "dynamic_slice": ("lookup at a secret place", _INDEX),
    "to_integer": ("rounding a secret value to an index", _INDEX),
    "argmax": ("argmax", "Release the scores and take the argmax of them"),
    "top_k": ("top-k", "Release the scores and sort them"),
    "sort": ("sorting", "Release the values and sort them"),
    "cumsum": ("cumulative sum", "Multiply by a triangular matrix"),
    "sign": ("sign", "Use ReLU or LeakyReLU"),
    "floor": ("rounding", "Round the released values"),
    "round": ("rounding", "Round the released values"),
    "eq": ("equality", _EQUAL),
    "ne": ("equality", _EQUAL),
    "is_finite": ("a test for infinity", "Use softmax over one axis"),
    "reduce_window": ("window function", "Use max or average pooling"),
}


def describe(primitive: str) -> tuple[str, str]:
    """Return a readable name of ``primitive`` and what works instead."""
    common, remedy = HINTS.get(primitive, ("", ""))
    name = f"{common} ({primitive})" if common and common != primitive else primitive
    return name, remedy or "Leave the layer out, or compute it before encryption or after release"
