"""The values of a program's nodes, computed one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node, map_arg

from edgecompile.graph_edit import user_input_names
from edgecompile.quantize.layers import constants_of


def given_values(exported: ExportedProgram, inputs: Sequence[torch.Tensor]) -> dict[Node, Any]:
    """Return the values of the nodes that nothing computes: inputs and constants."""
    given = constants_of(exported) | dict(zip(user_input_names(exported), inputs, strict=True))
    return {node: given[node.name] for node in exported.graph.find_nodes(op="placeholder")}


def computed_value(node: Node, values: Mapping[Node, Any]) -> Any:
    """Return the value of a call of an operator."""
    args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
    assert callable(node.target)
    return node.target(*args, **kwargs)


def all_values(exported: ExportedProgram, inputs: Sequence[torch.Tensor]) -> dict[Node, Any]:
    """Return the value of every node of a float program."""
    values = given_values(exported, inputs)
    for node in exported.graph.nodes:
        if node.op == "call_function":
            values[node] = computed_value(node, values)
    return values
