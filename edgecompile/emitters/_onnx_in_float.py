"""What ONNX Runtime computes in float though it stands among integers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
from torch.fx import Node

from edgecompile.decline import decline
from edgecompile.engines.onnxruntime import optimized_graph
from edgecompile.program import Declined, QuantizedProgram, Reason

Readers = Mapping[str, Sequence[onnx.NodeProto]]
"""The nodes that read each value."""

_COMPUTING = ("Conv", "ConvTranspose", "Gemm", "MatMul", "FusedConv", "FusedGemm", "FusedMatMul")
_NOT_QUANTIZED = Reason(
    "ONNX Runtime computes it in float: its inputs or its output are not quantized",
    change="see what the quantization says of the operators beside it",
)
_NO_INTEGER_KERNEL = Reason(
    "ONNX Runtime has no integer kernel for it: it computes in float between dequantize and quantize",
    change="use an operator that has one, or ship a format whose engine has",
)


def left_in_float(data: bytes, program: QuantizedProgram) -> tuple[Declined, ...]:
    """Return the convolutions, linears and products in float, and what only the program has in integers.

    The latter are operators between a dequantize and a quantize node, for which there is no integer kernel.
    """
    graph = optimized_graph(data)
    nodes = {node.name: node for node in program.exported.graph.nodes}
    in_float = {row.timed_as for row in program.unquantized}
    makers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    rows = []
    for node in graph.node:
        own = nodes.get(_name_in_program(node, readers, nodes))
        what = f"{node.op_type} {node.name}"
        if node.op_type in _COMPUTING:
            reason = _NOT_QUANTIZED
        elif own is not None and own.name not in in_float and _is_between(node, makers, readers):
            reason = _NO_INTEGER_KERNEL
        else:
            continue  # in integers, or in float in the program too
        if own is None:
            rows.append(Declined(what=what, where="", reason=reason, change=reason.change))
        else:
            rows.append(decline(own, reason, what=what, timed_as=node.name))
    return tuple(rows)


def _is_between(
    node: onnx.NodeProto,
    makers: Mapping[str, onnx.NodeProto],
    readers: Readers,
) -> bool:
    """Tell whether a node computes in float what a dequantize node gives it and a quantize node takes."""
    given = any(name in makers and makers[name].op_type == "DequantizeLinear" for name in node.input)
    taken = [reader.op_type for name in node.output for reader in readers.get(name, ())]
    return given and bool(taken) and set(taken) == {"QuantizeLinear"}


def _name_in_program(node: onnx.NodeProto, readers: Readers, nodes: Mapping[str, Node]) -> str:
    """Return the program's name of a node: its own, or that of the operator whose part it computes.

    Of the nodes that one operator becomes, the last bears its name.
    """
    while node.name not in nodes:
        following = [reader for name in node.output for reader in readers.get(name, ())]
        if not following:
            return ""
        node = following[0]
    return node.name
