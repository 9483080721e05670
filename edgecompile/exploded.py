"""A program of all layers of another side by side, each with inputs and an output of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node, map_arg

from edgecompile.artifact_run import Inputs
from edgecompile.graph_edit import Operator
from edgecompile.program import Precision, QuantizedProgram
from edgecompile.program_builder import ProgramBuilder
from edgecompile.quantize.layers import constants_of
from edgecompile.symbolic_sizes import bound_symbols, evaluated


class Exploded:
    """Such a program while it is made.

    Its sizes are those of one sample.

    Attributes:
        inputs: Of each layer.
    """

    def __init__(self, exported: ExportedProgram, sample: Inputs, sources: Sequence[Sequence[Node]]) -> None:
        """Begin with the inputs.

        Args:
            exported: The program that the layers are of.
            sample: Inputs of that program.
            sources: What each layer reads, as nodes of it.
        """
        self._symbols = bound_symbols(exported, sample)
        self._constants = constants_of(exported)
        names = [
            [f"layer_{index}_input_{place}" for place in range(len(own))] for index, own in enumerate(sources)
        ]
        examples = {
            name: torch.zeros([evaluated(size, self._symbols) for size in node.meta["val"].shape])
            for own_names, own in zip(names, sources, strict=True)
            for name, node in zip(own_names, own, strict=True)
        }
        self._builder = ProgramBuilder(examples)
        self._copied: dict[Node, Node] = {}
        self.inputs = [[self._builder.inputs[name] for name in own] for own in names]

    def call(self, target: Operator, *args: Any) -> Node:
        """Add a call of an operator."""
        return self._builder.call(target, args, {})

    def copy(self, node: Node, copies: dict[Node, Node]) -> Node:
        """Copy a node of the other program and all that it reads, but for what has a copy already."""
        if node not in copies:
            if node.op == "placeholder":
                if node not in self._copied:
                    self._copied[node] = self._builder.constant(node.name, self._constants[node.name])
                copies[node] = self._copied[node]
            else:
                args, kwargs = map_arg((node.args, node.kwargs), lambda read: self._argument(read, copies))
                assert callable(node.target)
                copies[node] = self._builder.call(node.target, args, kwargs, like=node)
        return copies[node]

    def _argument(self, node: Node, copies: dict[Node, Node]) -> Any:
        """Return the copy of what a node reads; a size is a number here."""
        size = node.meta.get("val")
        return evaluated(size, self._symbols) if isinstance(size, torch.SymInt) else self.copy(node, copies)

    def program(self, outputs: Sequence[Node], precision: Precision) -> QuantizedProgram:
        """Return the program."""
        return QuantizedProgram(
            name="layers",
            precision=precision,
            exported=self._builder.finish(outputs),
            float_weight_bytes=0,
            unquantized=(),
            steps=(),
        )
