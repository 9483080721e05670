"""What a program costs, as a function of the units that stay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.graph_edit import operand, shape_of
from edgecompile.layer_rows import LINEAR, TRANSPOSED
from edgecompile.pruning.channel_groups import ChannelGroups
from edgecompile.pruning.layer_inputs import LAYERS
from edgecompile.pruning.pruning_report import Measure
from edgecompile.quantize.layers import constants_of

aten = torch.ops.aten

# A Cortex-A76 does 32 int8 MACs in a cycle for each of its two pipes that can, and moves some 4 bytes.
_MACS_PER_BYTE = 16
PRODUCTS = (aten.matmul.default, aten.bmm.default, aten.scaled_dot_product_attention.default)


@dataclass(frozen=True, kw_only=True, eq=False)
class Term:
    """A cost that is proportional to each of some widths.

    Attributes:
        node: The layer or product that it is of; a constant's node where parameters are counted.
        base: The cost of the whole program's.
        widths: For each axis that can lose units, the units along it.
    """

    node: Node
    base: float
    widths: tuple[torch.Tensor, ...]

    def cost(self, keep: torch.Tensor) -> float:
        """Return the cost with the units that stay, (units,), bool."""
        return self.base * math.prod(float(keep[width].double().mean()) for width in self.widths)


def terms_of(exported: ExportedProgram, groups: ChannelGroups, measure: Measure) -> tuple[Term, ...]:
    """Return the cost of a program for one sample.

    `macs` are multiply-accumulates, `parameters` elements of constants, `size` their bytes in INT8 (four for
    each element of a vector: biases and scales). `latency` is a prediction in the time of one MAC: the MACs,
    and what layers read and write, each byte as long as some MACs (the roofline model, Williams et al. 2009,
    with both parts added).
    """
    if measure == "macs":
        return _macs(exported, groups)
    if measure == "latency":
        return (*_macs(exported, groups), *_traffic(exported, groups))
    return _parameters(exported, groups, vector_bytes=4 if measure == "size" else 1)


def total(terms: Sequence[Term], keep: torch.Tensor) -> float:
    """Return the cost of all terms."""
    return sum(term.cost(keep) for term in terms)


def prunable(terms: Sequence[Term], removable: torch.Tensor) -> tuple[Term, ...]:
    """Return the terms that change where some unit is removed of those that can be, (units,), bool."""
    return tuple(term for term in terms if any(bool(removable[width].any()) for width in term.widths))


def _widths(node: Node, groups: ChannelGroups) -> tuple[torch.Tensor, ...]:
    return tuple(labels.ids.reshape(-1) for labels in groups.of_constants.get(node, ()))


def _parameters(exported: ExportedProgram, groups: ChannelGroups, *, vector_bytes: int) -> tuple[Term, ...]:
    constants, found = constants_of(exported), []
    for node in exported.graph.find_nodes(op="placeholder"):
        if node.name in constants:
            value = constants[node.name]
            each = 1 if value.dim() > 1 else vector_bytes
            found.append(Term(node=node, base=float(value.numel() * each), widths=_widths(node, groups)))
    return tuple(found)


def _traffic(exported: ExportedProgram, groups: ChannelGroups) -> tuple[Term, ...]:
    """Return what layers read and write in INT8, in MACs that take as long."""
    constants, found = constants_of(exported), []
    for node in exported.graph.nodes:
        if node.target not in LAYERS and node.target not in PRODUCTS:
            continue
        for value in (node, *node.all_input_nodes):
            labels = groups.of_values.get(value)
            of_value = () if labels is None else (labels.ids.reshape(-1),)
            widths = _widths(value, groups) if value.name in constants else of_value
            elements = math.prod(size for size in shape_of(value) if isinstance(size, int))
            found.append(Term(node=node, base=float(elements * _MACS_PER_BYTE), widths=widths))
    return tuple(found)


def _macs(exported: ExportedProgram, groups: ChannelGroups) -> tuple[Term, ...]:
    constants = constants_of(exported)
    found = []
    for node in exported.graph.nodes:
        if node.target in LAYERS and isinstance(node.args[1], Node) and node.args[1].name in constants:
            weight = node.args[1]
            base = float(constants[weight.name].numel()) * positions(node)
            found.append(Term(node=node, base=base, widths=_widths(weight, groups)))
        elif node.target in PRODUCTS:
            labels = groups.of_values.get(node) or groups.of_values.get(operand(node))
            widths = () if labels is None else (labels.ids.reshape(-1),)
            found.append(Term(node=node, base=product_macs(node), widths=widths))
    return tuple(found)


def positions(node: Node) -> int:
    """Return how often a layer's weight is applied to one sample; a dynamic batch counts as one."""
    source = operand(node) if node.target in TRANSPOSED else node
    shape = shape_of(source)
    axes = shape[:-1] if node.target is LINEAR else (shape[0], *shape[2:])
    return math.prod(size for size in axes if isinstance(size, int))


def product_macs(node: Node) -> float:
    """Return the MACs of a product of two values, or of the two products of attention."""
    result = [size for size in shape_of(node) if isinstance(size, int)]
    left = shape_of(operand(node))
    if node.target is aten.scaled_dot_product_attention.default:
        keys = shape_of(operand(node, 1))[-2]
        return 2.0 * math.prod(result) * (keys if isinstance(keys, int) else 1)
    return float(math.prod(result)) * (left[-1] if isinstance(left[-1], int) else 1)
