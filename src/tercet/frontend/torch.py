"""Tracing PyTorch modules: live ones, exported programs and .pt2 files.

``torch.export`` gives the graph, JAX does the tracing (``torch_run.py``), so that one set of rules
and of recognised functions serves both frameworks. Only a live module needs PyTorch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from tercet.errors import ModelError
from tercet.frontend.foreign import Foreign
from tercet.frontend.reports import LayerReport, layer_reports
from tercet.frontend.torch_program import Exported
from tercet.frontend.traced import Traced


def is_torch(model: Foreign) -> bool:
    """Return whether ``model`` is a module or program of PyTorch, or the path of a .pt2 file."""
    if isinstance(model, (str, os.PathLike)):
        return Path(model).suffix.lower() == ".pt2"
    if isinstance(model, Exported):
        return True
    # No module can exist before its framework is imported.
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, (torch.nn.Module, torch.export.ExportedProgram))


def trace_torch(model: Foreign, example_inputs: Foreign = None, *, scale: int = 16) -> Traced:
    """Trace a PyTorch module to a program.

    Args:
        model: a live module, an ``ExportedProgram`` or the path of a .pt2 file; the two latter
            with a dynamic first axis.
        example_inputs: for a live module one tensor (rows, ...), or a tuple of it: only its shape
            and dtype matter. Token ids are integers.
        scale: fractional bits of inputs, weights and outputs.

    Raises:
        UnsupportedOperation: if a layer has an operation without a rule; names the layer.
        ModelError: if the module cannot be exported, or the file cannot be read.
    """
    from tercet.frontend import jax as tracing
    from tercet.frontend.torch_run import function_of

    exported = export(model, example_inputs)
    function, shape = function_of(exported), _input_shape(exported)
    try:
        return tracing.trace(
            function,
            shape,
            weights=exported.arrays,
            scale=scale,
            name=exported.name,
            naming=_naming(exported),
        )
    except ModelError:
        raise
    except Exception as error:  # JAX raises almost anything on shapes that do not fit
        raise _untraceable(exported, error) from error


def supported_modules(model: Foreign, example_inputs: Foreign = None) -> list[LayerReport]:
    """Return for each inner module of a PyTorch module whether Tercet supports it.

    Raises:
        ModelError: as ``trace_torch``, but for operations without a rule.
    """
    from tercet.frontend import jax as tracing
    from tercet.frontend.torch_run import function_of

    exported = export(model, example_inputs)
    function, shape, naming = function_of(exported), _input_shape(exported), _naming(exported)
    try:
        graph = tracing.graph_of(function, shape, exported.arrays, tracing.SIZES[0])
    except ModelError:
        raise
    except Exception as error:
        raise _untraceable(exported, error) from error
    lowered = tracing.lower(graph, exported.arrays, naming, 16, tolerant=True)
    return layer_reports(naming.kinds, lowered.operations)


def export(model: Foreign, example_inputs: Foreign = None) -> Exported:
    """Return what Tercet reads of a module: a model by itself, which ``trace_torch`` takes."""
    if isinstance(model, Exported):
        return model
    try:
        import jax  # noqa: F401
    except ImportError as error:
        raise ModelError(
            f"PyTorch models need jax ({error})", "pip install 'tercet[torch]'"
        ) from error
    if isinstance(model, (str, os.PathLike)):
        from tercet.frontend.torch_archive import read

        path = Path(model)
        if not path.is_file():
            raise ModelError(f"There is no model file {path}", "Check the path")
        return read(path, path.stem)
    from tercet.frontend.torch_export import export_live

    return export_live(model, example_inputs)


def _input_shape(exported: Exported) -> tuple[int, ...]:
    rows, *shape = exported.block.kinds[exported.data].shape or (1,)
    if isinstance(rows, int):
        raise ModelError(
            f"Model {exported.name!r} was exported for {rows} rows",
            "Export it with an open batch size: dynamic_shapes=({0: torch.export.Dim('batch')},)",
        )
    if not all(isinstance(d, int) for d in shape):
        raise ModelError(
            f"Model {exported.name!r} takes input with unknown extents {tuple(shape)}",
            "Export it with every extent but the batch fixed",
        )
    return tuple(int(d) for d in shape)


def _naming(exported: Exported) -> Foreign:
    from tercet.frontend.jax import Naming
    from tercet.frontend.torch_run import OUTERMOST, told

    kinds: Mapping[str, str] = {
        (call.layer or OUTERMOST): call.module or exported.name
        for call in exported.block.walk()
        if call.operation.startswith("aten.") and not call.operation.startswith("aten.sym_")
    }
    return Naming(lambda stack: stack.partition("/")[0], kinds, told=told)


def _untraceable(exported: Exported, error: Exception) -> ModelError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return ModelError(
        f"Model {exported.name!r} cannot be traced: {lines[0][:300].rstrip('.')}",
        "Its operations must work on tensors of fixed shape; tell us of it if they do",
    )


__all__ = ["LayerReport", "export", "is_torch", "supported_modules", "trace_torch"]
