"""A captured program as an `nn.Module` again, which trains as the model did that it was captured from."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx import Graph, GraphModule, Node

from edgecompile.graph_edit import output_nodes, user_input_names
from edgecompile.layer_rows import CONVOLUTIONS, LINEAR, TRANSPOSED
from edgecompile.quantize.layers import constants_of

aten = torch.ops.aten

# What training changes of an operator: the place of the argument that says so.
_OF_NORMS = 5
_TRAINING: Mapping[object, int] = {
    aten.batch_norm.default: _OF_NORMS,
    aten.instance_norm.default: _OF_NORMS,
    aten.dropout.default: 2,
    aten.feature_dropout.default: 2,
    aten.alpha_dropout.default: 2,
}


class TrainableGraph(GraphModule):
    """The graph of a program; in training, batch norms use and track the batch's statistics."""

    def train(self, mode: bool = True) -> TrainableGraph:
        """Set the mode, and tell the operators that differ in it."""
        super().train(mode)
        for node in self.graph.nodes:
            place = _TRAINING.get(node.target)
            if place is None or (place == _OF_NORMS and node.args[3] is None):
                continue  # a norm without statistics takes those of its input in both modes
            if node.args[place] is not mode:
                node.update_arg(place, mode)
        self.recompile()
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> TrainableGraph:
        """Copy it, as a training loop does to keep its best state: a plain copy has a plain graph's class."""
        return _restored(super().__deepcopy__(memo), self.training)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle it, as `torch.save` does."""
        make, arguments = super().__reduce__()
        return _unpickled, (make, arguments, self.training)


def _unpickled(
    make: Callable[..., GraphModule], arguments: tuple[Any, ...], training: bool
) -> TrainableGraph:
    return _restored(make(*arguments), training)


def _restored(plain: GraphModule, training: bool) -> TrainableGraph:
    """Return what trains, of a copy that does not; its class is called as the module's."""
    return TrainableGraph(plain, plain.graph, type(plain).__name__).train(training)


def trainable(exported: ExportedProgram, module: nn.Module) -> TrainableGraph:
    """Return a program as a module in inference mode.

    Args:
        exported: Captured from the module, maybe pruned since.
        module: Its parameters and buffers give the names; what was a parameter is one again.
    """
    constants, inputs = constants_of(exported), user_input_names(exported)
    names = _names(exported, module)
    frozen = {name for name, value in module.named_parameters() if not value.requires_grad}
    root = nn.Module()
    graph = Graph()
    copied: dict[Node, Any] = {}
    for name in inputs:  # in the order in which the model takes them
        node = next(node for node in exported.graph.find_nodes(op="placeholder") if node.name == name)
        copied[node] = graph.placeholder(name)
    for node in exported.graph.nodes:
        if node.op == "placeholder" and node.name in constants:
            name, is_parameter = names[node.name]
            _register(root, name, constants[node.name], is_parameter=is_parameter)
            if name in frozen:
                root.get_parameter(name).requires_grad_(False)
            copied[node] = graph.get_attr(name)
        elif node.op == "call_function":
            copied[node] = graph.node_copy(node, copied.__getitem__)
            copied[node].meta = {}
    results = tuple(copied[node] for node in output_nodes(exported.graph))
    graph.output(results[0] if len(results) == 1 else results)
    return TrainableGraph(root, graph, type(module).__name__).eval()


def _names(exported: ExportedProgram, module: nn.Module) -> dict[str, tuple[str, bool]]:
    """Return each constant's name in the module, by its node's name, and whether it is a parameter."""
    known = {f"p_{_flat(name)}": (name, True) for name, _ in module.named_parameters(remove_duplicate=False)}
    known |= {f"b_{_flat(name)}": (name, False) for name, _ in module.named_buffers(remove_duplicate=False)}
    found = {}
    for node in exported.graph.find_nodes(op="placeholder"):
        found[node.name] = known.get(node.name, (node.name, False))
    taken = {name for name, _ in found.values()}
    for node in exported.graph.nodes:
        # A bias that least squares gave to a layer that had none.
        if node.target not in (*CONVOLUTIONS, *TRANSPOSED, LINEAR) or len(node.args) < 3:
            continue
        weight, bias = node.args[1:3]
        if isinstance(weight, Node) and isinstance(bias, Node) and bias.name not in known:
            name = f"{found[weight.name][0].rpartition('.')[0]}.bias".lstrip(".")
            found[bias.name] = (name if name not in taken else bias.name, True)
            taken.add(found[bias.name][0])
    return found


def _flat(name: str) -> str:
    return re.sub(r"\W", "_", name)


def _register(root: nn.Module, name: str, value: torch.Tensor, *, is_parameter: bool) -> None:
    """Put a tensor where its dotted name says."""
    *parents, last = name.split(".")
    owner = root
    for parent in parents:
        if not hasattr(owner, parent):
            owner.add_module(parent, nn.Module())
        owner = getattr(owner, parent)
    if is_parameter:
        owner.register_parameter(last, nn.Parameter(value.detach().clone()))
    else:
        owner.register_buffer(last, value.detach().clone())
