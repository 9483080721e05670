"""Parts of a graph that compute a function of one value, which is found by evaluating them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node
from torch.fx.node import map_arg

from edgecompile.graph_edit import ProgramEditor
from edgecompile.graph_pass import PassOutcome, outcome

# Recognition looks no further back than this.
_DEEPEST = 16


def recognized(
    program: ExportedProgram, ends: Collection[Any], recognize: Callable[[ProgramEditor, Node], None]
) -> PassOutcome:
    """Return a program after trying to recognize what ends in each of some operators, the last first."""
    editor = ProgramEditor(program)
    for node in reversed(list(editor.calls(*ends))):
        if node.users and node.meta["val"].dtype == torch.float32:
            recognize(editor, node)
    editor.graph.eliminate_dead_code()
    return outcome(editor)


def regions_before(node: Node, operators: Collection[Any]) -> Iterator[tuple[Node, list[Node]]]:
    """Yield each value on which alone a node's value depends through some operators, the nearest first.

    Args:
        node: The end of the region.
        operators: What the region may be made of; their other arguments are numbers.

    Yields:
        The value, and the nodes after it up to `node`, in order. What they compute is read by them alone.
    """
    order = {other: place for place, other in enumerate(node.graph.nodes)}
    region = [node]
    while len(region) <= _DEEPEST:
        # Where one value is all that the region reads, it is a function of that value.
        inputs = {source for member in region for source in member.all_input_nodes} - set(region)
        if len(inputs) == 1 and len(region) > 1:
            yield next(iter(inputs)), sorted(region, key=order.__getitem__)
        # The latest value that it reads becomes part of it.
        latest = max(inputs, key=order.__getitem__, default=None)
        if latest is None or latest.target not in operators or not latest.users.keys() <= set(region):
            return
        region.append(latest)


def evaluated(source: Node, region: list[Node], value: torch.Tensor) -> torch.Tensor:
    """Return what a region computes for a value of its source."""
    values: dict[Node, torch.Tensor] = {source: value}
    for node in region:
        args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
        assert callable(node.target)
        values[node] = node.target(*args, **kwargs)
    return values[region[-1]]


def numbers_in(region: list[Node]) -> list[float]:
    """Return the numbers that a region's operators are given."""
    return [float(item) for node in region for item in node.args if isinstance(item, int | float)]
