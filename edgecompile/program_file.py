"""Programs as text: how a bundle keeps the program that its artifacts were lowered from.

One JSON document lists the graph's nodes; tensors lie beside it in an `.npz`. `torch.export.save` is not
used because loading its archives may run code, and a bundle comes from anywhere. Here a file can only name
operators of two namespaces, and nothing is evaluated.
"""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import Dim, ExportedProgram
from torch.fx import Graph, GraphModule, Node

from edgecompile.capture import MAX_BATCH
from edgecompile.errors import InvalidManifestError
from edgecompile.graph_edit import source_line
from edgecompile.quantize.layers import constants_of

_NAMESPACES = ("aten", "quantized_decomposed")
_OPERATOR = re.compile(r"(\w+)\.(\w+)\.(\w+)")
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*")
_DTYPES = {
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
            row |= {"type": _describe(node)}
        elif node.op == "output":
            row = {"output": _encode(node.args[0])}
        else:
            row = {
                "name": node.name,
                "call": str(node.target),
                "args": _encode(node.args),
                "kwargs": _encode(node.kwargs),
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


def read_program(graph_file: Path, constants_file: Path) -> ExportedProgram:
    """Rebuild a program from its two files.

    Raises:
        InvalidManifestError: The text is not a program of this module's.
    """
    try:
        rows = json.loads(graph_file.read_text(encoding="utf-8"))
        with np.load(constants_file, allow_pickle=False) as archive:
            constants = {name: torch.from_numpy(archive[name]) for name in archive.files}
        return _build(rows, constants)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OSError, RuntimeError) as error:
        raise InvalidManifestError(
            f"{graph_file.name} is not a program: {type(error).__name__}: {str(error).splitlines()[0]}",
            where=str(graph_file),
            hint="build the bundle again",
        ) from error


def _describe(node: Node) -> dict[str, Any]:
    value = node.meta["val"]
    sizes = [None if isinstance(size, torch.SymInt) else size for size in value.shape]
    return {"shape": sizes, "dtype": str(value.dtype).removeprefix("torch.")}


def _encode(value: object) -> Any:
    if isinstance(value, Node):
        return {"node": value.name}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, list | tuple):
        return [_encode(item) for item in value]
    if isinstance(value, dict):
        return {key: _encode(item) for key, item in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return {"text": str(value)}  # layouts, devices and memory formats: shown, and refused when read


def _decode(value: Any, nodes: dict[str, Node]) -> Any:
    if isinstance(value, list):
        return [_decode(item, nodes) for item in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"node"}:
        return nodes[value["node"]]
    if set(value) == {"dtype"}:
        return _DTYPES[value["dtype"]]
    raise ValueError(f"unknown argument {value!r}")


def _build(rows: list[dict[str, Any]], constants: dict[str, torch.Tensor]) -> ExportedProgram:
    root = torch.nn.Module()
    graph = Graph()
    nodes: dict[str, Node] = {}
    examples: list[torch.Tensor] = []
    dynamic = False
    for row in rows:
        if "input" in row:
            nodes[row["input"]] = graph.placeholder(_identifier(row["input"]))
            sizes = row["type"]["shape"]
            dynamic = dynamic or None in sizes
            # torch.export takes a batch of 1 for a constant.
            plain = [2 if size is None else int(size) for size in sizes]
            examples.append(torch.zeros(plain, dtype=_DTYPES[row["type"]["dtype"]]))
        elif "constant" in row:
            name = _identifier(row["constant"])
            root.register_buffer(name, constants[name])
            nodes[name] = graph.get_attr(name)
        elif "output" in row:
            graph.output(tuple(_decode(row["output"], nodes)))
        else:
            arguments = tuple(_decode(row["args"], nodes))
            keywords = {key: _decode(item, nodes) for key, item in row["kwargs"].items()}
            node = graph.call_function(_operator(row["call"]), arguments, keywords)
            node.name = _identifier(row["name"])
            where = str(row["where"]).rpartition(":")
            if where[0]:
                node.meta["stack_trace"] = f'File "{where[0]}", line {where[2]}, in forward'
            nodes[row["name"]] = node
    module = GraphModule(root, graph)
    batch = Dim("batch", min=1, max=MAX_BATCH)
    shapes = tuple({0: batch} for _ in examples) if dynamic else None
    return torch.export.export(module, tuple(examples), dynamic_shapes=shapes)


def _identifier(name: str) -> str:
    if not _IDENTIFIER.fullmatch(name):
        raise ValueError(f"{name!r} is no name")
    return name


def _operator(text: str) -> Any:
    match = _OPERATOR.fullmatch(text)
    if match is None or match[1] not in _NAMESPACES:
        raise ValueError(f"{text!r} is no operator")
    namespace = getattr(torch.ops, match[1])
    return getattr(getattr(namespace, match[2]), match[3])
