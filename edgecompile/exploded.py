"""A program of all layers of another side by side, each with inputs and an output of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Graph, GraphModule, Node

from edgecompile.artifact_run import Inputs
from edgecompile.program import Precision, QuantizedProgram
from edgecompile.quantize.layers import constants_of
from edgecompile.symbolic_sizes import bound_symbols, evaluated


class Exploded:
    """Such a program while it is made.

    Its sizes are those of one sample.

    Attributes:
        graph: Gets the layers; all inputs come first.
    """

    def __init__(self, exported: ExportedProgram, sample: Inputs) -> None:
        self.graph = Graph()
        self._symbols = bound_symbols(exported, sample)
        self._constants = constants_of(exported)
        self._root = torch.nn.Module()
        self._examples: list[torch.Tensor] = []

    def input(self, name: str, like: Node) -> Node:
        """Add an input for a node's value, of the size that it has for the sample."""
        sizes = [evaluated(size, self._symbols) for size in like.meta["val"].shape]
        self._examples.append(torch.zeros(sizes))
        return self.graph.placeholder(name)

    def copy(self, node: Node, copies: dict[Node, Node]) -> Node:
        """Copy a node of the other program and all that it reads, but for what has a copy already."""
        if node not in copies:
            if node.op == "placeholder":
                self._root.register_buffer(node.name, self._constants[node.name])
                copies[node] = self.graph.get_attr(node.name)
            else:
                copies[node] = self.graph.node_copy(node, lambda read: self._argument(read, copies))
        return copies[node]

    def _argument(self, node: Node, copies: dict[Node, Node]) -> Any:
        """Return the copy of what a node reads; a size is a number here."""
        size = node.meta.get("val")
        return evaluated(size, self._symbols) if isinstance(size, torch.SymInt) else self.copy(node, copies)

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
