"""Programs as text: how a bundle keeps the program that its artifacts were lowered from.

One JSON document lists the graph's nodes; tensors lie beside it in an `.npz`. `torch.export.save` is not
used because loading its archives may run code, and a bundle comes from anywhere. Here a file can only name
operators of two namespaces, and nothing is evaluated.
"""

from __future__ import annotations

import io
import json
import keyword
import math
import operator
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.dynamic_size import BATCH, MAX_BATCH
from edgecompile.errors import InvalidManifestError
from edgecompile.flat_signature import name_outputs, output_names
from edgecompile.graph_edit import source_line
from edgecompile.program_builder import ProgramBuilder
from edgecompile.quantize.layers import constants_of, quantized_layers
from edgecompile.symbolic_sizes import name_sizes, names_in_text, size_text, skeleton_shapes
from edgecompile.user_code import first_line

_NAMESPACES = ("aten", "quantized_decomposed")
_OPERATOR = re.compile(r"(\w+)\.(\w+)\.(\w+)")
_PYTHON_OPERATORS = {
    function.__name__: function
    for function in (operator.getitem, operator.add, operator.sub, operator.mul, operator.floordiv)
}
_IDENTIFIER = re.compile(r"(?!__)[A-Za-z_]\w*", re.ASCII)
_SOURCE_LINE = re.compile(r"([\w .+-]+):(\d+)")
_TEXTS = {
    str(value): value
    for value in (
        torch.device("cpu"),
        torch.strided,
        torch.contiguous_format,
        torch.channels_last,
        torch.preserve_format,
    )
}
_LARGEST_INPUT = 2**28  # elements
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float32,
        torch.float64,
        torch.float16,
        torch.int8,
        torch.uint8,
        torch.int16,
        torch.int32,
        torch.int64,
        torch.bool,
    )
}


def to_text(exported: ExportedProgram) -> str:
    """Return the graph as JSON, one node a line."""
    constants = constants_of(exported)
    rows = []
    for node in exported.graph.nodes:
        if node.op == "placeholder":
            row = {"constant" if node.name in constants else "input": node.name}
            sizes = size_text(exported, node)
            row |= {"type": {"shape": sizes, "dtype": str(node.meta["val"].dtype).removeprefix("torch.")}}
        elif node.op == "output":
            row = {"output": encode(node.args[0]), "names": list(output_names(exported))}
        else:
            row = {
                "name": node.name,
                "call": call_name(node.target),
                "args": encode(node.args),
                "kwargs": encode(node.kwargs),
                "where": source_line(node),
            }
        rows.append(json.dumps(row))
    return "[\n" + ",\n".join(rows) + "\n]\n"


def constants_to_npz(exported: ExportedProgram) -> bytes:
    """Return the constants as an uncompressed `.npz`."""
    buffer = io.BytesIO()
    arrays = {name: value.detach().contiguous().numpy() for name, value in constants_of(exported).items()}
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def read_program(text: bytes, npz: bytes, source: Path) -> ExportedProgram:
    """Rebuild a program from its two files; `source` names the first one in errors.

    Raises:
        InvalidManifestError: The text is not a program of this module's.
    """
    try:
        with np.load(io.BytesIO(npz), allow_pickle=False) as archive:
            constants = {name: torch.from_numpy(archive[name]) for name in archive.files}
        exported = _build(json.loads(text), constants)
        quantized_layers(exported)  # asserts what the graph alone does not
        return exported
    # torch.export has no common base for what it raises on a graph that makes no sense.
    except Exception as error:
        raise InvalidManifestError(
            f"{source.name} is not a program: {type(error).__name__}: {first_line(error)}",
            where=str(source),
            hint="build the bundle again",
        ) from error


def encode(value: object) -> Any:
    """Return an argument of a node as JSON's types."""
    if isinstance(value, Node):
        return {"node": value.name}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    if isinstance(value, dict):
        return {key: encode(item) for key, item in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return {"text": str(value)}  # layouts, devices and memory formats


def decode(value: Any, nodes: dict[str, Node]) -> Any:
    """Return an argument, with the nodes that it names."""
    if isinstance(value, list):
        return [decode(item, nodes) for item in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"node"}:
        return nodes[value["node"]]
    if set(value) == {"dtype"}:
        return DTYPES[value["dtype"]]
    if set(value) == {"text"}:
        return _TEXTS[value["text"]]
    raise ValueError(f"unknown argument {value!r}")


def _build(rows: list[dict[str, Any]], constants: dict[str, torch.Tensor]) -> ExportedProgram:
    given = {_identifier(row["input"]): row["type"] for row in rows if "input" in row}
    builder = ProgramBuilder(*_inputs(given))
    nodes: dict[str, Node] = dict(builder.inputs)
    output_row: dict[str, Any] = {}
    for row in rows:
        if "constant" in row:
            name = _identifier(row["constant"])
            nodes[name] = builder.constant(name, constants[name])
        elif "output" in row:
            output_row = row
        elif "input" not in row:
            # torch.fx writes these names into code that it compiles.
            name, arguments = _identifier(row["name"]), decode(row["args"], nodes)
            keywords = {_identifier(key): decode(item, nodes) for key, item in row["kwargs"].items()}
            node = builder.call(operator_named(row["call"]), arguments, keywords, name=name)
            where = _SOURCE_LINE.fullmatch(row["where"])
            if where:
                node.meta["stack_trace"] = f'File "{where[1]}", line {where[2]}, in forward'
            nodes[name] = node
    if not output_row.get("output"):
        raise ValueError("it returns nothing")
    exported = builder.finish(decode(output_row["output"], nodes))
    if "names" in output_row:  # bundles from before it have numbers
        outputs = output_row["names"]
        if not all(isinstance(name, str) and _IDENTIFIER.fullmatch(name) for name in outputs):
            raise ValueError(f"{outputs!r:.200} are no names")
        name_outputs(exported, outputs)
    names = {name: names_in_text([_size(item) for item in own["shape"]]) for name, own in given.items()}
    name_sizes(exported, names)
    return exported


def _inputs(given: dict[str, dict[str, Any]]) -> tuple[dict[str, torch.Tensor], Any]:
    """Return an example of each input, and what torch.export is told of their sizes."""
    shapes, dynamic_shapes = skeleton_shapes(
        [[_size(item) for item in own["shape"]] for own in given.values()]
    )
    if any(math.prod(shape) > _LARGEST_INPUT for shape in shapes):
        raise ValueError(f"an input of {max(shapes, key=math.prod)} is too large")
    return {
        name: torch.zeros(shape, dtype=DTYPES[own["dtype"]])
        for (name, own), shape in zip(given.items(), shapes, strict=True)
    }, dynamic_shapes


def _size(described: Any) -> Any:
    """Return a size of an input; bundles from before sizes had names have None for that of the batch."""
    return {"name": BATCH, "minimum": 1, "maximum": MAX_BATCH} if described is None else described


def _identifier(name: str) -> str:
    if not _IDENTIFIER.fullmatch(name) or keyword.iskeyword(name):
        raise ValueError(f"{name!r} is no name")
    return name


def operator_named(text: str) -> Any:
    """Return an operator of a program; raises ValueError for anything else that has a name."""
    if text in _PYTHON_OPERATORS:
        return _PYTHON_OPERATORS[text]
    match = _OPERATOR.fullmatch(text)
    if match is None or match[1] not in _NAMESPACES:
        raise ValueError(f"{text!r} is no operator")
    found = getattr(getattr(getattr(torch.ops, match[1]), match[2]), match[3])
    # Attributes of Python's own have the same form; and some operators read or write files.
    if not isinstance(found, torch._ops.OpOverload):
        raise ValueError(f"{text!r} is no operator")
    schema = found._schema
    names = {argument.name for argument in schema.arguments}
    if schema.is_mutable or not schema.returns or "filename" in names:
        raise ValueError(f"{text!r} is no function of tensors")
    return found


def call_name(target: Any) -> str:
    """Return the name that `operator_named` knows."""
    return str(target) if isinstance(target, torch._ops.OpOverload) else str(target.__name__)
