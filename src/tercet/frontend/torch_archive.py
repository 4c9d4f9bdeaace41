"""Reading a .pt2 file, as ``torch.export.save`` writes it, without PyTorch.

PyTorch's own reader is not for files of others: it unpickles (sample inputs, some tensors) and
evaluates the text of expressions. Here the graph is read as the JSON that it is, the weights as
the raw numbers that they are, and what a file holds pickled is refused if the model needs it and
never looked at otherwise. Format: schema version 8 (``torch/_export/serde/schema.py``).
"""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import IO, Any

import numpy as np

from tercet.errors import ModelError
from tercet.frontend.aten.dtypes import Dtype
from tercet.frontend.numbers import is_narrowed
from tercet.frontend.torch_program import Argument, Block, Call, Exported, Kind, Names, Ref
from tercet.frontend.torch_rows import split_rows
from tercet.frontend.values import Array

_VERSION = 8
#: A frame of a stack trace, as PyTorch writes it; the longest name of a file that is told.
_FRAME, _NAME = re.compile(r'File "([^"\n]{1,1000})", line (\d{1,9})'), 60
_SAVE_AGAIN = "Save it again with torch.export.save, PyTorch 2.13 or newer"

#: ``ScalarType`` of the schema.
_TYPES = {
    1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32",
    8: "float64", 9: "complex32", 10: "complex64", 11: "complex128", 12: "bool", 13: "bfloat16",
}  # fmt: skip


def read(file: str | Path | IO[bytes], name: str) -> Exported:
    """Return the model in ``file``.

    Raises:
        ModelError: if it is damaged, of another format, or needs something that is pickled.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
            if damaged is not None:
                raise ModelError(f"{name} is damaged ({damaged})", _SAVE_AGAIN)
            return _Archive(archive, name).read()
    except (
        zipfile.BadZipFile, zlib.error, OSError, EOFError, UnicodeDecodeError, LookupError,
        ValueError, TypeError, AttributeError, RecursionError, NotImplementedError,
    ) as error:  # fmt: skip
        raise ModelError(
            f"{name} is no exported PyTorch program, or is damaged", _SAVE_AGAIN
        ) from (error)


class _Archive:
    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        self.archive, self.name = archive, name
        self.top = next(
            (n.partition("/")[0] for n in archive.namelist() if n.endswith("/models/model.json")),
            "",
        )
        if not self.top:
            raise ModelError(f"{name} holds no exported program", _SAVE_AGAIN)

    def load(self, path: str) -> Any:
        return json.loads(self.archive.read(f"{self.top}/{path}"))

    def read(self) -> Exported:
        model = self.load("models/model.json")
        version = model["schema_version"]["major"]
        if version != _VERSION:
            raise ModelError(f"{self.name} has format {version}, not {_VERSION}", _SAVE_AGAIN)
        if self.archive.read(f"{self.top}/byteorder") != b"little":
            raise ModelError(f"{self.name} has another byte order", _SAVE_AGAIN)
        signature = model["graph_module"]["signature"]
        data, weights = _inputs(signature["input_specs"])
        if len(data) != 1:
            raise ModelError(
                f"Model {self.name!r} has {len(data)} inputs; exactly one is supported",
                "Join the inputs into one tensor, or wrap the module so that it takes one",
            )
        for spec in signature["output_specs"]:
            if "user_output" not in spec:
                raise ModelError(
                    f"Model {self.name!r} changes its own state ({next(iter(spec))})",
                    "Call module.eval() before it is exported",
                )
        block = split_rows(_block(model["graph_module"]["graph"]))
        used = _used(block)
        stored = {
            **self.stored("constants"),
            **self.stored("weights"),
        }
        arrays = {n: self.array(n, stored[n]) for a, n in weights.items() if a in used}
        return Exported(self.name, block, data[0], weights, arrays)

    def stored(self, folder: str) -> dict[str, tuple[str, Mapping[str, Any]]]:
        """Return where the numbers of each tensor are, and what they are."""
        stem = folder.removesuffix("s")
        found = self.load(f"data/{folder}/model_{stem}s_config.json")["config"]
        return {name: (f"data/{folder}", given) for name, given in found.items()}

    def array(self, name: str, stored: tuple[str, Mapping[str, Any]]) -> Array:
        """Return the numbers of one tensor."""
        folder, given = stored
        if given["use_pickle"] or not given["tensor_meta"]:
            raise ModelError(
                f"{self.name} holds {name!r} pickled, which may run code",
                "Use plain dense tensors, or load the file yourself and pass the program",
            )
        meta = given["tensor_meta"]
        raw = self.archive.read(f"{self.top}/{folder}/{given['path_name']}")
        return _numbers(raw, meta, f"{self.name}: {name!r}")


def _numbers(raw: bytes, meta: Mapping[str, Any], where: str) -> Array:
    kind = _TYPES.get(meta["dtype"], "unknown")
    if is_narrowed(kind) or kind.startswith(("complex", "unknown")):
        raise ModelError(
            f"{where} holds {kind} numbers; only float32 and whole numbers are supported",
            "Convert the module before it is exported: module.float()"
            if is_narrowed(kind)
            else "Use real numbers",
        )
    flat: Array = np.frombuffer(raw, np.dtype(kind))
    shape = [_whole(d) for d in meta["sizes"]]
    strides = [_whole(d) for d in meta["strides"]]
    first = _whole(meta["storage_offset"])
    last = first + sum((d - 1) * s for d, s in zip(shape, strides, strict=True))
    if min([first, *shape, *strides]) < 0 or (0 not in shape and last >= len(flat)):
        raise ModelError(f"{where} is longer than what is stored of it", _SAVE_AGAIN)
    bytes_each = [s * flat.itemsize for s in strides]
    return np.lib.stride_tricks.as_strided(flat[first:], shape, bytes_each, writeable=False)


def _whole(given: Mapping[str, Any]) -> int:
    return int(given["as_int"])


def _inputs(specs: list[Mapping[str, Any]]) -> tuple[list[str], dict[str, str]]:
    """Return the arguments that are inputs, and the weight of each other argument."""
    data, weights = [], {}
    for spec in specs:
        ((kind, given),) = spec.items()
        if kind == "user_input":
            data.append(given["arg"]["as_tensor"]["name"] if "as_tensor" in given["arg"] else "")
        elif kind in ("parameter", "buffer", "tensor_constant"):
            weights[given["arg"]["name"]] = given[f"{kind}_name"]
        else:
            raise ModelError(f"the model takes a {kind}", "Let it take one tensor")
    return data, weights


def _used(block: Block) -> set[str]:
    """Return the names that some call reads."""
    found: set[str] = set()

    def see(argument: Argument) -> None:
        if isinstance(argument, Ref):
            found.add(argument.name)
        elif isinstance(argument, (list, tuple)):
            for one in argument:
                see(one)

    for call in block.walk():
        see([*call.args, *call.options.values()])
    return found


def _block(graph: Mapping[str, Any]) -> Block:
    kinds = {
        name: Kind(_TYPES.get(t["dtype"], "unknown"), tuple(_extent(d) for d in t["sizes"]))
        for name, t in graph["tensor_values"].items()
    }
    return Block(
        tuple(_argument(a).name for a in graph["inputs"] if isinstance(_argument(a), Ref)),
        tuple(map(_call, graph["nodes"])),
        tuple(map(_argument, graph["outputs"])),
        kinds,
    )


def _extent(given: Mapping[str, Any]) -> int | str:
    return int(given["as_int"]) if "as_int" in given else str(given["as_expr"]["expr_str"])


def _call(node: Mapping[str, Any]) -> Call:
    layer, module = "", ""
    if stack := (node["metadata"] or {}).get("nn_module_stack"):
        _, layer, *_, kind = stack.split(";")[-1].split(",")
        module = kind.rpartition(".")[2]
    positional = tuple(_argument(i["arg"]) for i in node["inputs"] if i["kind"] != 2)
    options = {i["name"]: _argument(i["arg"]) for i in node["inputs"] if i["kind"] == 2}
    outputs = [_names(_argument(o)) for o in node["outputs"]]
    results: Names = outputs[0] if len(outputs) == 1 else tuple(outputs)
    target = node["target"].removeprefix("torch.ops.")
    line = _line((node["metadata"] or {}).get("stack_trace", ""))
    return Call(target, positional, options, results, layer, module, line)


def _line(trace: str) -> str:
    """Return file and line of the innermost frame of a stack that is not PyTorch's own."""
    frames = _FRAME.findall(trace)
    own = [(f, n) for f, n in frames if "site-packages" not in f and not f.startswith("<")]
    if not own:
        return ""
    file, number = own[-1]
    name = re.sub(r"[^\w.-]", "_", PurePath(file).name)[:_NAME]
    return f"{name}:{number}"


def _names(result: Argument) -> Names:
    if isinstance(result, Ref):
        return result.name
    return tuple(map(_names, result)) if isinstance(result, (list, tuple)) else None


def _argument(given: Mapping[str, Any]) -> Argument:
    """Return an argument of the schema's union as a plain value."""
    ((kind, value),) = given.items()
    if kind == "as_none":
        return None
    if kind in ("as_int", "as_bool", "as_string", "as_ints", "as_bools", "as_floats"):
        return value
    if kind in ("as_float", "as_strings"):
        return float(value) if kind == "as_float" else value
    if kind == "as_tensor":
        return Ref(value["name"])
    if kind == "as_tensors":
        return [Ref(v["name"]) for v in value]
    if kind == "as_name":
        return Ref(value)
    if kind in ("as_sym_int", "as_sym_bool", "as_sym_float", "as_optional_tensor"):
        return _argument(value)
    if kind in ("as_sym_ints", "as_sym_bools", "as_sym_floats", "as_optional_tensors"):
        return [_argument(v) for v in value]
    if kind == "as_scalar_type":
        return Dtype(_TYPES.get(value, "unknown"))
    if kind in ("as_device", "as_layout", "as_memory_format"):
        return None  # where and how PyTorch stores it
    if kind == "as_graph":
        return _block(value["graph"])
    raise ModelError(
        f"the model passes an argument {kind.removeprefix('as_')}",
        "Let it compute with tensors and real numbers",
    )
