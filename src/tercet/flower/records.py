"""What the strategy and the mod tell each other in Flower's messages, and arrays as records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord
from numpy.typing import NDArray

from tercet.errors import InputError

RECORD: Final = "tercet"
"""Key of the record that both sides add to a message."""

HELLO, SIGN, ROUND = "hello", "sign", "round"
"""What a message asks for: a certificate, a signature, or training and a contribution."""


def question(kind: str, **values: bytes | int | str) -> ConfigRecord:
    """Return the record by which the strategy asks for something."""
    return ConfigRecord({"kind": kind, **values})


def real_arrays(record: Mapping[str, Array]) -> dict[str, NDArray[Any]]:
    """Return the arrays of real numbers: what is summed.

    Others, such as counters, are left as the server has them.
    """
    arrays = {name: array.numpy() for name, array in record.items()}
    return {name: a for name, a in arrays.items() if a.dtype.kind == "f"}


def with_real_arrays(record: Mapping[str, Array], arrays: Mapping[str, Any]) -> ArrayRecord:
    """Return ``record`` with ``arrays`` in the places of those of the same names."""
    return ArrayRecord(
        {
            name: Array(np.asarray(arrays[name])) if name in arrays else array
            for name, array in record.items()
        }
    )


def only_arrays(records: Mapping[str, ArrayRecord], where: str) -> ArrayRecord:
    """Return the one array record of a message.

    Raises:
        InputError: there is none, or there are several.
    """
    if len(records) != 1:
        raise InputError(
            f"{where} holds {len(records)} array records", "Put the model into one ArrayRecord"
        )
    return next(iter(records.values()))
