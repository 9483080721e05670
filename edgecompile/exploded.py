"""A program of all layers of another side by side, each with inputs and an output of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.export import ExportedProgram
from torch.fx import Graph, GraphModule, Node

from edgecompile.program import Precision, QuantizedProgram
from edgecompile.quantize.layers import constants_of


class Exploded:
    """Such a program while it is made.

    Attributes:
        graph: Gets the layers; all inputs come first.
    """

    def __init__(self, exported: ExportedProgram) -> None:
        self.graph = Graph()
        self._constants = constants_of(exported)
        self._root = torch.nn.Module()
        self._examples: list[torch.Tensor] = []

    def input(self, name: str, like: Node) -> Node:
        """Add an input for a node's value, of one sample."""
        sizes = [1 if isinstance(size, torch.SymInt) else size for size in like.meta["val"].shape]
        self._examples.append(torch.zeros(sizes))
        return self.graph.placeholder(name)

    def copy(self, node: Node, copies: dict[Node, Node]) -> Node:
        """Copy a node of the other program and all that it reads, but for what has a copy already."""
        if node not in copies:
            if node.op == "placeholder":
                self._root.register_buffer(node.name, self._constants[node.name])
                copies[node] = self.graph.get_attr(node.name)
            else:
                copies[node] = self.graph.node_copy(node, lambda read: self.copy(read, copies))
        return copies[node]

    def program(self, outputs: Sequence[Node], precision: Precision) -> QuantizedProgram:
        """Return the program."""
        self.graph.output(tuple(outputs))
        return QuantizedProgram(
            name="layers",
            precision=precision,
            exported=torch.export.export(GraphModule(self._root, self.graph), tuple(self._examples)),
            float_weight_bytes=0,
            unquantized=(),
            steps=(),
        )
