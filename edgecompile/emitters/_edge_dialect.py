"""Translates a program into ExecuTorch's edge dialect without tracing it, node by node.

ExecuTorch decomposes a program by tracing it, then traces it nine times more for passes that look for
operators which a program of ours does not have. After edgecompile's passes a network is made of a few
operators, each of which is one operator, or a known few, of the edge dialect.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.emitters._edge_graph import EdgeGraph
from edgecompile.graph_edit import shape_of
from edgecompile.quantize.layers import DEQUANTIZE, DEQUANTIZE_PER_CHANNEL, QUANTIZE

if TYPE_CHECKING:
    from executorch.exir import EdgeCompileConfig

aten = torch.ops.aten

_QUANTIZATION = (QUANTIZE, DEQUANTIZE, DEQUANTIZE_PER_CHANNEL)
_SAME = (
    aten.relu.default,
    aten.hardtanh.default,
    aten.leaky_relu.default,
    aten.sigmoid.default,
    aten.tanh.default,
    aten.avg_pool2d.default,
    aten.mean.dim,
    aten.constant_pad_nd.default,
    aten.cat.default,
    aten.bmm.default,
    aten.gelu.default,
    aten.rsqrt.default,
    aten.sqrt.default,
    aten.exp.default,
    aten.log.default,
    aten.abs.default,
    aten.neg.default,
    aten.sin.default,
    aten.cos.default,
)


def edge_program(exported: ExportedProgram, config: EdgeCompileConfig) -> ExportedProgram | None:
    """Return the program in the edge dialect; None where only ExecuTorch itself can translate it.

    Args:
        exported: The program; it is left as it was, and shares its weights with the result.
        config: What the program is verified with, and which operators stay whole.
    """
    edge = EdgeGraph(exported)
    for node in exported.graph.nodes:
        copy = edge.copy(node) if node.op != "call_function" else _translate(node, edge, config.preserve_ops)
        if copy is None:
            return None
        edge.copies[node] = copy
    return edge.finish(config)


def _translate(node: Node, edge: EdgeGraph, whole: Collection[Any]) -> Node | None:
    """Add what a call is in the edge dialect and return the node of its value; None if that is unknown."""
    if (node.kwargs and node.target is not aten.gelu.default) or not _is_plain(node):
        return None
    if node.target in _QUANTIZATION:
        return _same(node, edge)
    if len({other.meta["val"].dtype for other in (node, *node.all_input_nodes)}) != 1:
        return None  # types are promoted by operators of their own
    if node.target in _OTHERS and node.meta["val"].dtype == torch.float32:
        return _OTHERS[node.target](node, edge)
    return _same(node, edge) if node.target in (*_SAME, *whole) else None


def _is_plain(node: Node) -> bool:
    """Tell whether a node computes one tensor of a fixed shape from such tensors, the inputs contiguous."""
    return all(
        isinstance(value := other.meta.get("val"), torch.Tensor)
        and all(isinstance(size, int) for size in value.shape)
        and (other.op == "call_function" or value.is_contiguous())
        for other in (node, *node.all_input_nodes)
    )


def _same(node: Node, edge: EdgeGraph) -> Node:
    return edge.call(node, node.target, *edge.copied(node.args), **node.kwargs)


def _permute(node: Node, edge: EdgeGraph) -> Node:
    return edge.call(node, aten.permute_copy.default, *edge.copied(node.args))


def _slice(node: Node, edge: EdgeGraph) -> Node:
    return edge.call(node, aten.slice_copy.Tensor, *edge.copied(node.args))


def _softmax(node: Node, edge: EdgeGraph) -> Node:
    value, axis = edge.copied(node.args)
    return edge.call(node, aten._softmax.default, value, axis, False)


def _silu(node: Node, edge: EdgeGraph) -> Node:
    (value,) = edge.copied(node.args)
    return edge.call(node, aten.mul.Tensor, value, edge.call(node, aten.sigmoid.default, value))


def _view(node: Node, edge: EdgeGraph) -> Node:
    return edge.call(node, aten.view_copy.default, *edge.copied(node.args))


def _binary(node: Node, edge: EdgeGraph) -> Node:
    values = edge.copied(node.args)
    tensors = [value if isinstance(value, Node) else edge.number(node, value) for value in values]
    return edge.call(node, node.target, *tensors)


def _convolution(node: Node, edge: EdgeGraph) -> Node:
    spatial = len(shape_of(node)) - 2
    arguments: list[Any] = list(edge.copied(node.args))
    defaults: list[Any] = [None, [1] * spatial, [0] * spatial, [1] * spatial, 1]
    value, weight, bias, stride, padding, dilation, groups = [*arguments, *defaults[len(arguments) - 2 :]]
    axes = [item if len(item) == spatial else list(item) * spatial for item in (stride, padding, dilation)]
    return edge.call(node, aten.convolution.default, value, weight, bias, *axes, False, [0] * spatial, groups)


def _hardsigmoid(node: Node, edge: EdgeGraph) -> Node:
    """Add relu6(value + 3) / 6 as torch decomposes it."""
    (value,) = edge.copied(node.args)
    shifted = edge.call(node, aten.add.Tensor, value, edge.number(node, 3))
    positive = edge.call(node, aten.clamp.default, shifted, 0)
    clamped = edge.call(node, aten.clamp.default, positive, None, 6)
    return edge.call(node, aten.div.Tensor, clamped, edge.number(node, 6))


_OTHERS: dict[Any, Callable[[Node, EdgeGraph], Node]] = {
    aten.conv1d.default: _convolution,
    aten.conv2d.default: _convolution,
    aten.view.default: _view,
    aten.reshape.default: _view,
    aten.permute.default: _permute,
    aten.slice.Tensor: _slice,
    aten.softmax.int: _softmax,
    aten.silu.default: _silu,
    aten.hardsigmoid.default: _hardsigmoid,
    aten.add.Tensor: _binary,
    aten.sub.Tensor: _binary,
    aten.mul.Tensor: _binary,
    aten.div.Tensor: _binary,
}
