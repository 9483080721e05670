"""Counts what each layer of a quantized program costs."""

from __future__ import annotations

import torch
from torch.fx import Node

from edgecompile.decline import macs_of
from edgecompile.graph_edit import operand, operator_name, source_line
from edgecompile.layer_costs import CostReport, LayerCost, cost_report
from edgecompile.program import QuantizedProgram
from edgecompile.quantize.layers import (
    DEQUANTIZE,
    DEQUANTIZE_PER_CHANNEL,
    computing_nodes,
    constants_of,
)

aten = torch.ops.aten

# What may stand between a layer and its stored weight.
_UNPACKING = (DEQUANTIZE, DEQUANTIZE_PER_CHANNEL, aten.view.default)
_STEPS_OF_4_BITS = 16


def count_costs(program: QuantizedProgram) -> CostReport:
    """Return what each layer of a program costs for one sample; a dynamic batch counts as one."""
    constants = constants_of(program.exported)
    counted: set[str] = set()
    rows = []
    for node in computing_nodes(program.exported.graph):
        if _stored(node, constants) is not None:
            continue  # a weight on its way to the layer that reads it
        parameters = weight_bytes = 0
        for source in node.all_input_nodes:
            stored = _stored(source, constants)
            if stored is not None and stored.name not in counted:
                counted.add(stored.name)
                parameters += constants[stored.name].numel()
                weight_bytes += _bytes(source, constants[stored.name])
        macs = macs_of(node)
        if macs or parameters:
            rows.append(
                LayerCost(
                    name=node.name,
                    kind=operator_name(node),
                    where=source_line(node),
                    macs=macs,
                    parameters=parameters,
                    weight_bytes=weight_bytes,
                )
            )
    return cost_report(rows)


def _stored(node: Node, constants: dict[str, torch.Tensor]) -> Node | None:
    """Return the constant that a node is, or is unpacked from; None where it is computed from an input."""
    while node.target in _UNPACKING:
        node = operand(node)
    return node if node.name in constants else None


def _bytes(source: Node, stored: torch.Tensor) -> int:
    """Return what a constant takes: two steps of 4 bits share a byte in every artifact."""
    while source.target is aten.view.default:
        source = operand(source)
    if source.target is DEQUANTIZE_PER_CHANNEL:
        least, greatest = source.args[4], source.args[5]
        assert isinstance(least, int) and isinstance(greatest, int)
        if greatest - least + 1 == _STEPS_OF_4_BITS:
            return (stored.numel() + 1) // 2
    return stored.nbytes
