"""Programs as they are kept between the stages of a build: exact, and read back without tracing.

Unlike the text of a bundle (`program_file`), which anyone may have written and which is traced again, this
form says every value's shape and strides, so that a program read back gives the artifacts that it would have
given before. It names operators, and holds no code.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Graph, Node
from torch.utils import _pytree

from edgecompile.graph_edit import (
    fake_result,
    module_name,
    set_module_name,
    source_line,
)
from edgecompile.origins import has_origin, origin_named, origin_of, set_origin
from edgecompile.program_builder import assembled, skeleton
from edgecompile.program_file import DTYPES, call_name, decode, encode, operator_named
from edgecompile.quantize.layers import constants_of
from edgecompile.symbolic_sizes import (
    copy_names,
    input_symbols,
    inputs_of_graph,
    name_sizes,
    names_in_text,
    plain_symbols,
    size_text,
    skeleton_shapes,
)
from edgecompile.tensor_file import can_hold


def program_text(exported: ExportedProgram) -> str:
    """Return all of a program but its constants' values, as JSON; equal programs give equal texts."""
    constants = constants_of(exported)
    rows: list[dict[str, Any]] = []
    graphs: dict[int, int] = {}  # numbers of graphs that differ in every process, numbered anew
    for node in exported.graph.nodes:
        if node.op == "output":
            rows.append({"output": encode(node.args[0])})
            continue
        row: dict[str, Any] = {"name": node.name, "value": _describe(node.meta.get("val"))}
        if node.op == "placeholder":
            row["constant"] = node.name in constants
            if not row["constant"]:
                row["sizes"] = size_text(exported, node)
        else:
            row |= {"call": call_name(node.target), "args": encode(node.args), "kwargs": encode(node.kwargs)}
            row |= {"where": source_line(node), "module": module_name(node)}
            if has_origin(node):
                origin = origin_of(node)
                row["origin"] = origin.name, graphs.setdefault(origin.graph_id, len(graphs))
        rows.append(row)
    signature = exported.module_call_graph[0].signature
    assert signature is not None
    specs = [_pytree.treespec_dumps(spec) for spec in (signature.in_spec, signature.out_spec)]
    names = signature.forward_arg_names
    return json.dumps({"rows": rows, "specs": specs, "argument_names": names}, indent=None)


def can_keep(exported: ExportedProgram) -> bool:
    """Tell whether `read_program` can rebuild a program: its dynamic sizes are those of its inputs."""
    if not can_hold(constants_of(exported)):
        return False
    symbols = {symbol for size in exported.range_constraints for symbol in size.free_symbols}
    return plain_symbols(exported) and symbols == input_symbols(exported)


def read_program(text: str, constants: dict[str, torch.Tensor]) -> ExportedProgram:
    """Rebuild a program.

    Args:
        text: Of `program_text`.
        constants: The values of the constants, by their placeholders' names.

    Raises:
        ValueError, KeyError, TypeError: The text is not that of a program.
    """
    document = json.loads(text)
    rows = document["rows"]
    inputs = [row for row in rows if "constant" in row and not row["constant"]]
    base = _skeleton(inputs)
    given = {row["name"]: node for row, node in zip(inputs, inputs_of_graph(base), strict=True)}
    fake_mode: Any = torch._guards.detect_fake_mode([node.meta["val"] for node in given.values()])
    graph = Graph()
    nodes: dict[str, Node] = {}
    for row in rows:
        if "output" in row:
            graph.output(tuple(decode(row["output"], nodes)))
            continue
        name = row["name"]
        if "constant" in row:
            node = graph.placeholder(name)
            if row["constant"]:
                node.meta["val"] = fake_mode.from_tensor(constants[name], static_shapes=True)
            else:
                node.meta["val"] = given[name].meta["val"]
                copy_names(node, given[name])
            node.target = name
        else:
            keywords = {key: decode(item, nodes) for key, item in row["kwargs"].items()}
            arguments = tuple(decode(row["args"], nodes))
            node = graph.call_function(operator_named(row["call"]), arguments, keywords)
            node.meta["val"] = _value(node, row["value"], fake_mode)
            if row["where"]:
                file, _, line = row["where"].rpartition(":")
                node.meta["stack_trace"] = f'File "{file}", line {line}, in forward'
            if row["module"]:
                set_module_name(node, row["module"])
            if "origin" in row:
                set_origin(node, origin_named(*row["origin"]))
        node.name = name
        nodes[name] = node
    exported = assembled(base, graph, constants)
    signature = exported.module_call_graph[0].signature
    assert signature is not None
    signature.in_spec, signature.out_spec = (_pytree.treespec_loads(spec) for spec in document["specs"])
    signature.forward_arg_names = document["argument_names"]
    return exported


def _describe(value: Any) -> Any:
    """Return a value's type, shape and strides; None in place of what is not known before it runs."""
    if isinstance(value, list | tuple):
        return [_describe(item) for item in value]
    if not isinstance(value, torch.Tensor):
        return None
    return {
        "dtype": str(value.dtype).removeprefix("torch."),
        "shape": [_fixed(size) for size in value.shape],
        "stride": [_fixed(step) for step in value.stride()],
    }


def _fixed(size: Any) -> int | None:
    return size if isinstance(size, int) else None


def _skeleton(rows: list[dict[str, Any]]) -> ExportedProgram:
    """Return a program with these inputs and nothing else."""
    shapes, dynamic_shapes = skeleton_shapes([row["sizes"] for row in rows])
    examples = {
        row["name"]: torch.empty(shape, dtype=DTYPES[row["value"]["dtype"]])
        for row, shape in zip(rows, shapes, strict=True)
    }
    exported = skeleton(examples, dynamic_shapes)
    inputs = inputs_of_graph(exported)
    name_sizes(
        exported,
        {node.name: names_in_text(row["sizes"]) for node, row in zip(inputs, rows, strict=True)},
    )
    return exported


def _value(node: Node, described: Any, fake_mode: Any) -> Any:
    """Return what a node's value looks like, computed anew only where a size is dynamic."""
    if isinstance(described, dict) and None not in (*described["shape"], *described["stride"]):
        with fake_mode:
            return torch.empty_strided(
                described["shape"], described["stride"], dtype=DTYPES[described["dtype"]], device="cpu"
            )
    return fake_result(node, fake_mode)
