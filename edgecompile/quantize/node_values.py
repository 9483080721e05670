"""The values of a program's nodes, computed one by one, for one sample or for many side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node, map_arg

from edgecompile.graph_edit import user_input_names
from edgecompile.quantize.layers import constants_of

aten = torch.ops.aten


def given_values(exported: ExportedProgram, inputs: Sequence[torch.Tensor]) -> dict[Node, Any]:
    """Return the values of the nodes that nothing computes: inputs and constants."""
    given = constants_of(exported) | dict(zip(user_input_names(exported), inputs, strict=True))
    return {node: given[node.name] for node in exported.graph.find_nodes(op="placeholder")}


def computed_value(node: Node, values: Mapping[Node, Any]) -> Any:
    """Return the value of a call of an operator."""
    args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
    # Attention has another kernel where gradients are followed, with other strides than were captured.
    function = aten.reshape.default if node.target is aten.view.default else node.target
    assert callable(function)
    return function(*args, **kwargs)


def all_values(exported: ExportedProgram, inputs: Sequence[torch.Tensor]) -> dict[Node, Any]:
    """Return the value of every node of a float program."""
    values = given_values(exported, inputs)
    for node in exported.graph.nodes:
        if node.op == "call_function":
            values[node] = computed_value(node, values)
    return values


class SampleValues:
    """The values of a program's nodes for all samples; each is let go when its last reader is computed.

    Attributes:
        known: Those that are still read, one mapping a sample.
    """

    def __init__(
        self,
        exported: ExportedProgram,
        samples: Sequence[Sequence[torch.Tensor]],
        sources: Mapping[Node, Iterable[Node]],
    ) -> None:
        self.known = [given_values(exported, inputs) for inputs in samples]
        self._sources = sources
        self._last_reader = {source: node for node, read in sources.items() for source in read}

    def put(self, node: Node, values: Sequence[Any]) -> None:
        """Keep a node's values, one a sample, and let go what only it and nodes before it read."""
        for known, value in zip(self.known, values, strict=True):
            known[node] = value
        for source in set(self._sources[node]):
            if self._last_reader[source] is node:
                for known in self.known:
                    del known[source]


def peak_bytes(exported: ExportedProgram, inputs: Sequence[torch.Tensor]) -> int:
    """Return what the values of one sample take that `SampleValues` holds at once, at most."""
    values = SampleValues(exported, [inputs], {node: node.all_input_nodes for node in exported.graph.nodes})
    (known,), constants, peak = values.known, constants_of(exported), 0
    for node in exported.graph.nodes:
        if node.op != "call_function":
            continue
        known[node] = computed_value(node, known)
        held = (value for other, value in known.items() if other.name not in constants)
        peak = max(peak, sum(value.nbytes for value in held if isinstance(value, torch.Tensor)))
        values.put(node, [known[node]])
    return peak
