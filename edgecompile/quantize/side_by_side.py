"""A quantized program beside the float program that it was made from: what is what."""

from __future__ import annotations

from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.graph_edit import operand, user_input_names
from edgecompile.quantize.layers import DEQUANTIZE, QUANTIZE, computing_nodes


def real_node(node: Node) -> Node:
    """Return what quantize and dequantize nodes are made from: a node with a real value in both programs."""
    while node.target in (QUANTIZE, DEQUANTIZE):
        node = operand(node)
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
