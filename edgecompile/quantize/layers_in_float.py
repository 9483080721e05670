"""Which weights stay in float where only layers of some kinds are quantized, and why."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.decline import decline
from edgecompile.program import Declined, Reason
from edgecompile.quantize.layers import constants_of

aten = torch.ops.aten

# Products of two computed tensors: work without a weight.
PRODUCTS = (aten.matmul.default, aten.bmm.default, aten.mm.default, aten.scaled_dot_product_attention.default)


def reason_in_float(layer: Node, constants: Collection[str]) -> str | None:
    """Return why a convolution or linear layer must stay in float, or None where it can be quantized.

    Args:
        layer: The node.
        constants: The names of the program's constants.
    """
    weight, bias = layer.args[1], layer.args[2] if len(layer.args) > 2 else None
    assert isinstance(weight, Node)
    if weight.name not in constants:
        return Reason("its weight is computed, not constant", change="store it as a parameter")
    if isinstance(bias, Node) and bias.name not in constants:
        return Reason("its bias is computed, not constant", change="store it as a parameter")
    if layer.meta["val"].dtype != torch.float32:
        return Reason("it does not compute in float32", change="compute in float32")
    return None


def weights_in_float(
    exported: ExportedProgram,
    reasons: Mapping[str, str],
    *,
    other: str,
    products: Collection[Any] = (),
) -> Iterator[Declined]:
    """Yield a row for every operator of a quantized program that reads a weight in float.

    Args:
        exported: The program.
        reasons: Of the layers that were looked at and left, by name.
        other: The reason of every other operator that reads a constant of two axes or more.
        products: Operators without a weight that a row is made for too.
    """
    constants = constants_of(exported)
    for node in exported.graph.nodes:
        if node.op != "call_function":
            continue
        reason = reasons.get(node.name)
        if reason is None and any(_is_weight(constants.get(source.name)) for source in node.all_input_nodes):
            reason = other
        if reason is None and node.target in products:
            reason = Reason(
                "both its operands are computed at run time", change="build with the precision int8"
            )
        if reason is not None:
            yield decline(node, reason, timed_as=node.name)


def _is_weight(value: torch.Tensor | None) -> bool:
    return value is not None and value.is_floating_point() and value.dim() > 1
