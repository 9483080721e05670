"""A program that is put together node by node, on what torch.export makes of its inputs.

`torch.export` traces a model in Python, which takes milliseconds an operator. Where the operators are known
already, their shapes are all that is missing.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch._guards import detect_fake_mode
from torch.export import ExportedProgram
from torch.fx import Graph, GraphModule, Node
from torch.utils import _pytree

from edgecompile.graph_edit import Operator, fake_result, signature_of
from edgecompile.symbolic_sizes import inputs_of_graph


class ProgramBuilder:
    """Such a program while it is made.

    Attributes:
        inputs: The placeholders of its inputs, by name.
    """

    def __init__(self, examples: Mapping[str, torch.Tensor], dynamic_shapes: Any = None) -> None:
        """Begin with the inputs.

        Args:
            examples: One of each, by name.
            dynamic_shapes: What torch.export is told of their sizes.
        """
        self._skeleton = skeleton(examples, dynamic_shapes)
        self._graph = Graph()
        self._constants: dict[str, torch.Tensor] = {}
        self.inputs = {
            name: self._placeholder(name, node.meta["val"])
            for name, node in zip(examples, inputs_of_graph(self._skeleton), strict=True)
        }
        self._fake_mode: Any = detect_fake_mode([node.meta["val"] for node in self.inputs.values()])

    def constant(self, name: str, value: torch.Tensor) -> Node:
        """Add a constant; as torch.export has it, constants come before the inputs."""
        self._constants[name] = value
        with self._graph.inserting_before(next(iter(self.inputs.values()))):
            return self._placeholder(name, self._fake_mode.from_tensor(value, static_shapes=True))

    def call(
        self,
        target: Operator,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        name: str = "",
        like: Node | None = None,
    ) -> Node:
        """Add a call of an operator; shapes that do not fit raise what the operator raises.

        Args:
            target: The operator.
            args: Its arguments.
            kwargs: Those by name.
            name: Of the node; otherwise the operator's.
            like: A node of another program that it is a copy of.
        """
        node = self._graph.call_function(target, tuple(args), dict(kwargs))
        if like is not None:
            node.meta = dict(like.meta)
        node.meta["val"] = fake_result(node, self._fake_mode)
        if name:
            node.name = name
        return node

    def finish(self, outputs: Sequence[Node]) -> ExportedProgram:
        """Return the program, which takes its inputs and gives its outputs in a row."""
        self._graph.output(tuple(outputs))
        exported = assembled(self._skeleton, self._graph, self._constants)
        signature = exported.module_call_graph[0].signature
        assert signature is not None
        signature.out_spec = _pytree.tree_structure((0,) * len(outputs))
        return exported

    def _placeholder(self, name: str, value: Any) -> Node:
        node = self._graph.placeholder(name)
        node.name = node.target = name
        node.meta["val"] = value
        return node


def assembled(base: ExportedProgram, graph: Graph, constants: dict[str, torch.Tensor]) -> ExportedProgram:
    """Return a program of a graph; its call takes and gives what the base's does.

    Args:
        base: Its `skeleton`.
        graph: Its placeholders are named for good.
        constants: By their placeholders' names.
    """
    module = GraphModule(torch.nn.Module(), graph)
    return ExportedProgram(
        root=module,
        graph=module.graph,
        graph_signature=signature_of(module.graph, {name: name for name in constants}),
        state_dict=constants,
        range_constraints=base.range_constraints,
        module_call_graph=copy.deepcopy(base.module_call_graph[:1]),
        example_inputs=base.example_inputs,
        constants={},
        verifiers=base.verifiers,
    )


def skeleton(examples: Mapping[str, torch.Tensor], dynamic_shapes: Any) -> ExportedProgram:
    """Return a program with these inputs and nothing else: what torch.export makes of dynamic sizes."""
    graph = Graph()
    nodes = [graph.placeholder(name) for name in examples]  # guards of a dynamic size name its input
    graph.output(tuple(graph.call_function(torch.ops.aten.clone.default, (node,)) for node in nodes))
    module = GraphModule(torch.nn.Module(), graph)
    return torch.export.export(module, tuple(examples.values()), dynamic_shapes=dynamic_shapes)
