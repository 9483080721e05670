"""Translates a program into ExecuTorch's edge dialect without tracing it, where one operator makes one.

ExecuTorch decomposes a program by tracing it, then traces it nine times more for passes that look for
operators which a program of ours does not have. After edgecompile's passes a network is made of a few
operators, each of which is one operator of the edge dialect too.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputSpec,
    OutputKind,
    OutputSpec,
    TensorArgument,
)
from torch.fx import Graph, GraphModule, Node
from torch.fx.traceback import NodeSource

from edgecompile.graph_edit import output_nodes, shape_of
from edgecompile.quantize.layers import DEQUANTIZE, DEQUANTIZE_PER_CHANNEL, QUANTIZE

if TYPE_CHECKING:
    from executorch.exir import EdgeCompileConfig

aten = torch.ops.aten

_Call = tuple[Any, tuple[Any, ...]]
_KEPT_METADATA = ("val", "from_node", "stack_trace")
_QUANTIZATION = (QUANTIZE, DEQUANTIZE, DEQUANTIZE_PER_CHANNEL)
_BINARY = (aten.add.Tensor, aten.mul.Tensor)
_SAME = (
    aten.relu.default,
    aten.hardtanh.default,
    aten.mean.dim,
    aten.constant_pad_nd.default,
    aten.cat.default,
)


def edge_program(exported: ExportedProgram, config: EdgeCompileConfig) -> ExportedProgram | None:
    """Return the program in the edge dialect; None where only ExecuTorch itself can translate it.

    Args:
        exported: The program; it is left as it was, and shares its weights with the result.
        config: What the program is verified with, and which operators stay whole.
    """
    from executorch.exir.passes.debug_handle_generator_pass import DebugHandleGeneratorPass
    from executorch.exir.passes.replace_aten_with_edge_pass import aten_to_edge
    from executorch.exir.verification.verifier import EXIREdgeDialectVerifier

    graph = Graph()
    copies: dict[Node, Node] = {}
    for node in exported.graph.nodes:
        if node.op != "call_function":
            copies[node] = graph.node_copy(node, copies.__getitem__)
            continue
        call = _core_call(node, config.preserve_ops)
        if call is None:
            return None
        target, args = call
        args = torch.fx.map_arg(args, copies.__getitem__)
        copy = graph.call_function(aten_to_edge(target), args)
        copy.meta = {"from_node": [NodeSource(node)]}
        copy.meta |= {key: node.meta[key] for key in _KEPT_METADATA if key in node.meta}
        copies[node] = copy
    module = GraphModule(torch.nn.Module(), graph)
    DebugHandleGeneratorPass()(module)  # numbers the origins: a node's handle in profiles
    for node in graph.nodes:
        node.meta.pop("from_node", None)  # every trace would copy it, longer each time
    # Copying a graph renames what is called as a builtin, such as `input`.
    names = {node.name: copy.name for node, copy in copies.items()}
    inputs = [
        InputSpec(spec.kind, TensorArgument(name=names[spec.arg.name]), spec.target, spec.persistent)
        for spec in exported.graph_signature.input_specs
    ]
    outputs = [
        OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(name=node.name), None)
        for node in output_nodes(graph)
    ]
    return ExportedProgram(
        root=module,
        graph=module.graph,
        graph_signature=ExportGraphSignature(inputs, outputs),
        state_dict=exported.state_dict,
        range_constraints=exported.range_constraints,
        module_call_graph=exported.module_call_graph,
        example_inputs=exported.example_inputs,
        constants=exported.constants,
        verifiers=[EXIREdgeDialectVerifier(edge_compile_config=config, class_only=True)],
    )


def _core_call(node: Node, whole: Collection[Any]) -> _Call | None:
    """Return the one core operator that a node is in the edge dialect, with its arguments, or None."""
    if node.kwargs or not _is_plain(node):
        return None
    if node.target in _QUANTIZATION:
        return node.target, node.args
    if len({other.meta["val"].dtype for other in (node, *node.all_input_nodes)}) != 1:
        return None  # types are promoted by operators of their own
    if node.target in (aten.conv1d.default, aten.conv2d.default):
        return _convolution(node)
    if node.target is aten.view.default:
        return aten.view_copy.default, node.args
    # A number becomes a tensor in the edge dialect.
    is_binary = node.target in _BINARY and all(isinstance(value, Node) for value in node.args)
    return (node.target, node.args) if is_binary or node.target in (*_SAME, *whole) else None


def _is_plain(node: Node) -> bool:
    """Tell whether a node computes one tensor of a fixed shape from such tensors, all contiguous."""
    values = [other.meta.get("val") for other in (node, *node.all_input_nodes)]
    return all(
        isinstance(value, torch.Tensor)
        and all(isinstance(size, int) for size in value.shape)
        and value.is_contiguous()
        for value in values
    )


def _convolution(node: Node) -> _Call:
    spatial = len(shape_of(node)) - 2
    arguments: list[Any] = list(node.args)
    defaults: list[Any] = [None, [1] * spatial, [0] * spatial, [1] * spatial, 1]
    value, weight, bias, stride, padding, dilation, groups = [*arguments, *defaults[len(arguments) - 2 :]]
    axes = [item if len(item) == spatial else list(item) * spatial for item in (stride, padding, dilation)]
    return aten.convolution.default, (value, weight, bias, *axes, False, [0] * spatial, groups)
