"""What a model will need, before anything of it is shared: what ``tercet check`` prints.

A layer is supported (exact but for rounding), approximated (by functions of a stated error) or not
supported; each has the bytes and rounds that its instructions declare. With a sample, the values
of every layer are measured and compared with what fixed point holds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tercet.errors import InputError, ModelError, UnsupportedOperation
from tercet.frontend.models import prepared, report_model, trace_model
from tercet.frontend.reports import LayerReport
from tercet.preflight.report import LAN, WAN, Layer, Operation, Preflight, Verdict
from tercet.program import passes
from tercet.program.checks import RANGE_BITS
from tercet.program.functions import FUNCTION_OPERATIONS
from tercet.program.passes.narrow import MARGIN
from tercet.program.program import Instruction, Program
from tercet.program.types import bind_shape
from tercet.protocol.replicated.cost import ReplicatedCost
from tercet.runtime.calibrate import Ranges, measure
from tercet.runtime.estimate import InstructionCost, estimate

#: Operations of the language that are exact although they stand among the functions.
_EXACT = {"abs", "sort", "lookup", "cumsum"}
_RANKED = {"argmax", "top_k"}
_FUNCTIONS = {o.name for o in FUNCTION_OPERATIONS} - _EXACT
#: Multiply-adds a second of one core, and products of shares that the busiest worker computes.
_MACS, _PRODUCTS = 8e9, 2
#: Where exp saturates (docs/functions.md).
_EXP_LIMIT = 1 << 15
#: Fewest fractional bits that are proposed.
_LEAST_SCALE = 8


def preflight(
    model: Any, example_inputs: Any, sample: ArrayLike | None, batch: int, scale: int
) -> Preflight:
    """Return the report on ``model``; see ``tercet.check``."""
    model = prepared(model, example_inputs)
    layers = report_model(model)
    refused = [layer for layer in layers if not layer.supported]
    if refused:
        return refusal(layers, batch, scale)
    try:
        traced = trace_model(model, scale=scale)
        program, arrays = passes.lower(traced.program, traced.arrays)
        ranges = None
        proposed = None
        if sample is not None:
            rows = _rows(sample, program)
            ranges = measure(program, arrays, rows)
            proposed = scale
            if any(_warnings(program, ranges).values()):
                proposed = _fitting(model, rows, scale)
            program = passes.narrow(program, ranges.compared)
    except UnsupportedOperation as error:
        return refusal(layers, batch, scale, str(error))
    except InputError:
        raise
    except ModelError as error:
        proposed = None if sample is None else _fitting(model, sample, scale)
        return refusal(layers, batch, scale, str(error), proposed)
    return _priced(program, layers, ranges, batch, scale, proposed)


def refusal(
    layers: Sequence[LayerReport],
    batch: int,
    scale: int,
    error: str = "",
    proposed: int | None = None,
) -> Preflight:
    """Return the report on a model that cannot be shared."""
    told = tuple(_unpriced(layer, scale) for layer in layers)
    return Preflight(False, error, batch, scale, proposed, told)


def _unpriced(layer: LayerReport, scale: int) -> Layer:
    verdict = Verdict.SUPPORTED if layer.supported else Verdict.REFUSED
    told = _operations(layer, scale)
    return Layer(
        layer.name, layer.kind, verdict, reason=layer.reason, remedy=layer.remedy, operations=told
    )


def _operations(layer: LayerReport, scale: int) -> tuple[Operation, ...]:
    found = []
    for one in layer.operations:
        used = tuple(op for op in one.made if op in _FUNCTIONS)
        verdict = Verdict.APPROXIMATED if used else Verdict.SUPPORTED
        found.append(
            Operation(
                one.name,
                one.place,
                verdict if one.supported else Verdict.REFUSED,
                used,
                stated_error(used, scale),
                one.reason,
                one.remedy,
                one.count,
            )
        )
    return tuple(found)


def _rows(sample: ArrayLike, program: Program) -> NDArray[np.float64]:
    array = np.asarray(sample)
    if array.dtype.kind not in "fiub":
        raise InputError(f"a sample of dtype {array.dtype}", "Give real numbers")
    return array.astype(np.float64)


def _fitting(model: Any, sample: ArrayLike, scale: int) -> int | None:
    """Return the most fractional bits below ``scale`` at which nothing may overflow."""
    for bits in range(scale - 2, _LEAST_SCALE - 1, -2):
        try:
            traced = trace_model(model, scale=bits)
            if traced.program.scale != bits:
                return None  # traced already: its owner chose
            program, arrays = passes.lower(traced.program, traced.arrays)
            ranges = measure(program, arrays, np.asarray(sample, np.float64))
        except ModelError:
            continue
        if not any(_warnings(program, ranges).values()):
            return bits
    return None


def _warnings(program: Program, ranges: Ranges) -> dict[str, str]:
    """Return for each layer what of it may overflow or saturate ("" for nothing)."""
    found: dict[str, str] = {}
    for number, instruction in enumerate(program.instructions):
        largest = ranges.results.get(number, 0)
        text = ""
        if largest * MARGIN >= 1 << RANGE_BITS:
            factor = (1 << RANGE_BITS) / max(largest, 1)
            text = (
                f"values up to {_real(largest, instruction):.3g} are within a factor {factor:.1f} "
                "of what fixed point holds"
            )
        elif instruction.op in _RANKED and _ranked(program, instruction, ranges):
            text = f"{instruction.op} may find another number than the largest"
        elif instruction.op == "exp" and _real(largest, instruction) > 0.99 * _EXP_LIMIT:
            text = f"exp saturates at {_EXP_LIMIT}"
        if text or instruction.source not in found:
            found[instruction.source] = text or found.get(instruction.source, "")
    return found


def _ranked(program: Program, instruction: Instruction, ranges: Ranges) -> bool:
    """Return whether what is ranked comes near the end of its domain (``function.top``)."""
    (value,) = instruction.args
    axis = instruction.attrs.get("axis", -1)
    assert isinstance(axis, int)
    width = (program.type_of(value).shape[axis] - 1).bit_length()
    largest = ranges.results.get(value - len(program.inputs), 0)
    return largest * MARGIN >= 1 << (RANGE_BITS - 2 - width)


def _real(words: int, instruction: Instruction) -> float:
    return words / 2.0**instruction.type.scale


def _priced(
    program: Program,
    layers: Sequence[LayerReport],
    ranges: Ranges | None,
    batch: int,
    scale: int,
    proposed: int | None,
) -> Preflight:
    costs = estimate(program, batch, ReplicatedCost())
    functions: defaultdict[str, list[str]] = defaultdict(list)
    largest: defaultdict[str, float] = defaultdict(float)
    spent: defaultdict[str, list[float]] = defaultdict(lambda: [0, 0, 0.0])
    for number, (instruction, cost) in enumerate(zip(program.instructions, costs, strict=True)):
        source = instruction.source
        if instruction.op in _FUNCTIONS and instruction.op not in functions[source]:
            functions[source].append(instruction.op)
        if ranges is not None:
            real = _real(ranges.results.get(number, 0), instruction)
            largest[source] = max(largest[source], real)
        seconds = _compute(program, instruction, batch) + LAN.seconds(cost.bytes, cost.rounds)
        for place, amount in enumerate((cost.bytes, cost.rounds, seconds)):
            spent[source][place] += amount
    warnings = {} if ranges is None else _warnings(program, ranges)
    total = sum(s[2] for s in spent.values()) or 1.0
    known = {layer.name for layer in layers}
    rows = [*layers, *(LayerReport(s or "(whole)", "", True) for s in spent if s not in known)]
    reports = []
    for row in rows:
        source = "" if row.name == "(whole)" else row.name
        used = tuple(functions.get(source, ()))
        sent, rounds, seconds = spent.get(source, (0, 0, 0.0))
        reports.append(
            Layer(
                row.name,
                row.kind,
                Verdict.APPROXIMATED if used else Verdict.SUPPORTED,
                used,
                stated_error(used, scale),
                bytes=int(sent),
                rounds=int(rounds),
                share=seconds / total,
                largest=largest.get(source) if ranges is not None else None,
                warning=warnings.get(source, ""),
                operations=_operations(row, scale),
            )
        )
    return _summed(reports, program, costs, batch, scale, proposed)


def _summed(
    layers: Sequence[Layer],
    program: Program,
    costs: Sequence[InstructionCost],
    batch: int,
    scale: int,
    proposed: int | None,
) -> Preflight:
    sent, rounds = sum(c.bytes for c in costs), sum(c.rounds for c in costs)
    compute = sum(_compute(program, i, batch) for i in program.instructions)
    return Preflight(
        True,
        "",
        batch,
        scale,
        proposed,
        tuple(layers),
        sent,
        rounds,
        LAN.seconds(sent, rounds) + compute,
        WAN.seconds(sent, rounds) + compute,
        compute,
    )


def stated_error(functions: Sequence[str], scale: int) -> str:
    """Return the error of a layer's functions, as docs/functions.md states it."""
    if not functions:
        return ""
    if set(functions) <= {"softmax", "log_softmax"}:
        extra = 2e-5 if "log_softmax" in functions else 1e-5
        return f"{2.0**-scale + extra:.1e} absolute"
    least = max(2.0 ** (1 - scale), 2.0**-15 if scale <= 16 else 1.2e-5)
    return f"1e-4 relative or {least:.1e}"


def _compute(program: Program, instruction: Instruction, batch: int) -> float:
    """Return the seconds of a product of matrices on one core."""
    if instruction.op not in ("matmul", "conv"):
        return 0.0
    right = program.type_of(instruction.args[1]).shape
    depth = right[-2] if instruction.op == "matmul" else prod(right[:-1])
    outputs = prod(bind_shape(instruction.type.shape, batch))
    return _PRODUCTS * outputs * depth / _MACS
