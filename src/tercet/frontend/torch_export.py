"""Exporting a live PyTorch module. Imported only where PyTorch is."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from tercet.errors import ModelError
from tercet.frontend.aten import find
from tercet.frontend.foreign import Foreign
from tercet.frontend.torch_archive import read
from tercet.frontend.torch_program import Exported

_ONE_INPUT = "Pass example_inputs: one tensor of shape (rows, ...), or a tuple of it"


def export_live(module: Foreign, example_inputs: Foreign) -> Exported:
    """Export ``module`` with an open batch size and return what Tercet reads of it.

    Raises:
        ModelError: if it cannot be exported; says why.
    """
    name = type(module).__name__
    if isinstance(module, torch.export.ExportedProgram):
        program, name = module, "model"
    else:
        program = _export(module, _example(example_inputs, name))
    missing, in_place = _unready(program)
    buffer = io.BytesIO()
    with _quiet():
        if missing or in_place:
            # PyTorch takes apart what has no row here; with that, nothing is left that works in
            # place.
            table = torch.export.default_decompositions()
            program = program.run_decompositions({k: v for k, v in table.items() if k in missing})
        torch.export.save(program, buffer)
    return read(buffer, name)


def _unready(program: Foreign) -> tuple[set[Foreign], bool]:
    """Return the operations of a program that have no row, and whether any works in place."""
    missing, in_place = set(), False
    for module in program.graph_module.modules():
        for node in module.graph.nodes:
            if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
                continue
            name = node.target._schema.name.partition("::")[2]
            if find(f"{name}.{node.target._overloadname}") is None:
                missing.add(node.target)
            in_place |= node.target._schema.is_mutable
    return missing, in_place


def _example(given: Foreign, name: str) -> Foreign:
    if given is None:
        raise ModelError(f"Module {name} does not state its input shape", _ONE_INPUT)
    one = given
    if isinstance(given, Sequence) and not isinstance(given, str):
        if len(given) != 1:
            raise ModelError(
                f"Module {name} takes {len(given)} inputs; exactly one is supported", _ONE_INPUT
            )
        one = given[0]
    try:
        # An array of NumPy is data, which is converted; a tensor says what the module takes.
        example = torch.as_tensor(one if isinstance(one, torch.Tensor) else _single(one))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ModelError(f"Example input of type {type(one).__name__}", _ONE_INPUT) from error
    if example.is_complex() or example.dtype == torch.bool:
        raise ModelError(
            f"Example input of {str(example.dtype).removeprefix('torch.')}; only real numbers are "
            "supported",
            "Encode it as numbers where it is still plain",
        )
    if example.is_floating_point() and example.dtype != torch.float32:
        kind = str(example.dtype).removeprefix("torch.")
        raise ModelError(
            f"Example input of {kind}; only float32 and whole numbers are supported",
            "Pass x.float(), and module.float()",
        )
    if example.ndim < 1 or not len(example):
        raise ModelError("Example input without rows", _ONE_INPUT)
    # An extent of 1 would be frozen into the program.
    return example if len(example) > 1 else torch.cat([example, example])


def _single(given: Foreign) -> Foreign:
    array = np.asarray(given)
    return array.astype(np.float32) if array.dtype.kind == "f" else array


def _export(module: Foreign, example: Foreign) -> Foreign:
    name, fast = type(module).__name__, torch.backends.mha.get_fastpath_enabled()
    training = {m: m.training for m in module.modules()}
    batch = {0: torch.export.Dim("batch")}
    try:
        module.eval()
        torch.backends.mha.set_fastpath_enabled(False)
        with _quiet(), torch.no_grad():
            return torch.export.export(module, (example,), dynamic_shapes=(batch,), strict=False)
    except ModelError:
        raise
    except Exception as error:  # a module may raise anything
        raise _refused(name, str(error)) from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for inner, flag in training.items():
            inner.training = flag


def _refused(name: str, text: str) -> ModelError:
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no message"]
    if "data-dependent" in text or "DataDependent" in text or "nonzero" in text:
        return ModelError(
            f"Module {name} branches on its data: {lines[0][:200]}",
            "Compute both branches and select one by torch.where; loop a fixed number of times",
        )
    if "Constraints violated" in text or "specializ" in text or "batch" in lines[0]:
        return ModelError(
            f"Module {name} fixes its batch size or mixes the rows of a batch",
            "Treat every row alike: x.flatten(1) or x.view(x.shape[0], -1)",
        )
    return ModelError(
        f"Module {name} cannot be exported: {lines[0][:300].rstrip('.')}",
        "torch.export must take it: tensors of fixed shape but for the first axis",
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what PyTorch warns of its own workings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
