"""Turns a converted graph module back into an `ExportedProgram`, without tracing it again."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch._guards import detect_fake_mode
from torch.export import ExportedProgram
from torch.fx import Graph, GraphModule, Node

from edgecompile.graph_edit import fake_result, signature_of
from edgecompile.origins import origin_of, set_origin
from edgecompile.symbolic_sizes import copy_names, inputs_of_graph


def lift(graph_module: GraphModule, original: ExportedProgram) -> ExportedProgram:
    """Lift a module's tensors into placeholders, and compute every value's shape and strides anew.

    The program is the one that `torch.export.export` makes of the module, in a fraction of the time: names
    and order are its own, for both become part of the artifacts.

    Args:
        graph_module: `original.module()` after rewrites; its tensors are attributes, its inputs the same.
        original: Gives the inputs' shapes, which may be dynamic, and the signature around them.
    """
    inputs = inputs_of_graph(original)
    fake_mode: Any = detect_fake_mode([node.meta["val"] for node in inputs])
    graph = Graph()
    read = {str(node.target) for node in graph_module.graph.find_nodes(op="get_attr")}
    tensors = {**dict(graph_module.named_parameters()), **dict(graph_module.named_buffers())}
    constants: dict[str, Node] = {}
    state_dict: dict[str, torch.Tensor] = {}
    for target in (name for name in tensors if name in read):
        node = graph.placeholder(f"b_{target.replace('.', '_')}")
        state_dict[target] = tensors[target].detach()
        node.meta["val"] = fake_mode.from_tensor(state_dict[target], static_shapes=True)
        constants[target] = node
    copies: dict[Node, Node] = {}
    given = graph_module.graph.find_nodes(op="placeholder")
    for node, origin in zip(given, inputs, strict=True):
        copies[node] = copied = graph.placeholder(origin.name)
        copied.name = copied.target = origin.name  # fx renames what is called as a builtin, such as `input`
        copied.meta["val"] = origin.meta["val"]
        copy_names(copied, origin)
    for node in graph_module.graph.nodes:
        if node.op == "get_attr":
            copies[node] = constants[str(node.target)]
        elif node.op == "output":
            graph.output(torch.fx.map_arg((node.args[0],), copies.__getitem__)[0])
        elif node.op == "call_function":
            copies[node] = _copy_call(graph, node, copies, fake_mode)
    graph.eliminate_dead_code()
    module = GraphModule(torch.nn.Module(), graph)
    targets = {node.name: target for target, node in constants.items()}
    return ExportedProgram(
        root=module,
        graph=module.graph,
        graph_signature=signature_of(module.graph, targets),
        state_dict=state_dict,
        range_constraints=copy.deepcopy(original.range_constraints),
        module_call_graph=copy.deepcopy(original.module_call_graph[:1]),
        example_inputs=original.example_inputs,
        constants={},
        verifiers=original.verifiers,
    )


def _copy_call(graph: Graph, node: Node, copies: dict[Node, Node], fake_mode: Any) -> Node:
    args, kwargs = torch.fx.map_arg((node.args, node.kwargs), copies.__getitem__)
    # torch.export names a node after its operator, without the overload.
    packet: Any = getattr(node.target, "overloadpacket", node.target)
    copied = graph.create_node("call_function", node.target, args, kwargs, name=packet.__name__)
    set_origin(copied, origin_of(node))
    if "stack_trace" in node.meta:
        copied.meta["stack_trace"] = node.meta["stack_trace"]
    copied.meta["val"] = fake_result(copied, fake_mode)
    return copied
