"""What is said of an operator that is left as it is: its source line, why, and what it costs."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.fx import Node

from edgecompile.graph_edit import operand, source_line
from edgecompile.program import Declined, Reason
from edgecompile.pruning.costs import PRODUCTS, positions, product_macs
from edgecompile.pruning.layer_inputs import LAYERS
from edgecompile.quantize.layers import described

aten = torch.ops.aten

# Forms that only exist after decomposition, each with the operands that are multiplied.
_DECOMPOSED_PRODUCTS = {aten.mm.default: (0, 1), aten.addmm.default: (1, 2)}


def decline(node: Node, reason: str, *, what: str = "", timed_as: str = "") -> Declined:
    """Return the row of an operator.

    Args:
        node: Of a graph in which values have shapes, in any dialect.
        reason: Why; a `Reason` also says what to change.
        what: What the row calls it; "" for `softmax (softmax_1)`.
        timed_as: What a trace of operators' times calls it.
    """
    return Declined(
        what=what or described(node),
        where=source_line(node),
        reason=str(reason),
        change=reason.change if isinstance(reason, Reason) else "",
        macs=macs_of(node),
        moved_bytes=moved_bytes_of(node),
        timed_as=timed_as,
    )


def macs_of(node: Node) -> int:
    """Return the multiply-accumulates of an operator for one sample; a dynamic size counts as one."""
    inner = getattr(node.target, "_op", None)  # of an operator of the edge dialect
    target: Any = inner if isinstance(inner, torch._ops.OpOverload) else node.target
    if target in PRODUCTS:
        return round(product_macs(node))
    if target in _DECOMPOSED_PRODUCTS:
        left, right = (_elements(operand(node, index)) for index in _DECOMPOSED_PRODUCTS[target])
        # (M, K) and (K, N): M * K * N is the root of the product of the sizes of all three.
        return math.isqrt(left * right * _elements(node))
    if target is aten.convolution.default:
        source = operand(node) if node.args[6] else node
        spatial = source.meta["val"].shape[2:]
        return _elements(operand(node, 1)) * _size((source.meta["val"].shape[0], *spatial))
    if target in LAYERS:
        return _elements(operand(node, 1)) * positions(node)
    return 0


def moved_bytes_of(node: Node) -> int:
    """Return how many bytes an operator reads and writes for one sample; a dynamic size counts as one."""
    return sum(_bytes(other.meta.get("val")) for other in (node, *node.all_input_nodes))


def _bytes(value: object) -> int:
    if isinstance(value, list | tuple):
        return sum(map(_bytes, value))
    return _size(value.shape) * value.element_size() if isinstance(value, torch.Tensor) else 0


def _elements(node: Node) -> int:
    return _size(node.meta["val"].shape)


def _size(shape: Any) -> int:
    return math.prod(size for size in shape if isinstance(size, int))
