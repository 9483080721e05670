"""A quantized program beside the float program that it was made from: what is what, and values in float."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node, map_arg

from edgecompile.graph_edit import user_input_names
from edgecompile.quantize.layers import DEQUANTIZE, QUANTIZE, computing_nodes, constants_of


def run_float(exported: ExportedProgram, inputs: Sequence[torch.Tensor]) -> dict[Node, Any]:
    """Return the value of every node of a float program."""
    given = constants_of(exported) | dict(zip(user_input_names(exported), inputs, strict=True))
    values: dict[Node, Any] = {}
    for node in exported.graph.nodes:
        if node.op == "placeholder":
            values[node] = given[node.name]
        elif node.op == "call_function":
            args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
            values[node] = node.target(*args, **kwargs)
    return values


def real_node(node: Node) -> Node:
    """Return what quantize and dequantize nodes are made from: a node with a real value in both programs."""
    while node.target in (QUANTIZE, DEQUANTIZE):
        source = node.args[0]
        assert isinstance(source, Node)
        node = source
    return node


def float_nodes(exported: ExportedProgram, in_float: ExportedProgram) -> dict[Node, Node]:
    """Return what each node of a quantized program is in the float program: they are the same in order."""
    own, other = _flow(exported), _flow(in_float)
    assert [node.target for node in own] == [node.target for node in other]
    return dict(zip(own, other, strict=True))


def _flow(exported: ExportedProgram) -> list[Node]:
    """Return the inputs, and what computes on the way from them to the outputs.

    All else may differ: the conversion computes what is constant, and drops what nothing reads.
    """
    inputs = input_nodes(exported)
    reached = set(inputs)
    for node in exported.graph.nodes:
        if not reached.isdisjoint(node.all_input_nodes):
            reached.add(node)
    read: set[Node] = set()
    for node in reversed(exported.graph.nodes):
        if node.op == "output" or not read.isdisjoint(node.users):
            read.add(node)
    return [*inputs, *(node for node in computing_nodes(exported.graph) if node in reached & read)]


def input_nodes(exported: ExportedProgram) -> list[Node]:
    """Return the placeholders of the model's inputs, in order."""
    placeholders = {node.name: node for node in exported.graph.find_nodes(op="placeholder")}
    return [placeholders[name] for name in user_input_names(exported)]
