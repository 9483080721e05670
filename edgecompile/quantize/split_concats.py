"""Splitting of concatenations: a layer that reads several values as one reads each for itself instead.

The values of a concatenation share one scale. Where one of them is a hundred times as large as another, and
no factor can make them even, the small one is left with a few levels.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.graph_edit import ProgramEditor
from edgecompile.graph_pass import PassOutcome, outcome
from edgecompile.layer_rows import groups_of
from edgecompile.quantize.channel_statistics import ChannelStatistics
from edgecompile.quantize.layers import WEIGHTED, constants_of

aten = torch.ops.aten

_WORTH_A_TRY = 0.11  # of the predicted noise, 0.5 dB; less is not worth an addition at run time

ConcatParts = dict[str, torch.Tensor]
"""By the name of a concatenation's node, which part each of its inputs goes to, (inputs,), int64: 0 or 1."""


def find_parts(
    exported: ExportedProgram, statistics: Mapping[str, ChannelStatistics], noise: float
) -> ConcatParts:
    """Return the concatenations that lose much by their one scale, each with its inputs in two parts.

    Args:
        exported: The program.
        statistics: Of its values by their names, with the factors that the channels are to have.
        noise: Predicted for the whole program, relative to the outputs' power.
    """
    constants = constants_of(exported)
    found = {}
    for node in exported.graph.find_nodes(op="call_function", target=aten.cat.default):
        sources, axis = _sources(node), _axis(node)
        if not _can_split(node, constants) or any(own.name not in statistics for own in (node, *sources)):
            continue
        inputs, sensitivity = [statistics[own.name] for own in sources], statistics[node.name].sensitivity
        widths = [int(own.meta["val"].shape[axis]) for own in sources]
        if [item.least.shape[1] for item in inputs] != widths or len(sensitivity) != sum(widths):
            continue  # what is known of them is along another axis
        parts, saved = _parts(inputs, sensitivity)
        if saved > _WORTH_A_TRY * noise:
            found[node.name] = parts
    return found


def split_concats(exported: ExportedProgram, parts: ConcatParts) -> PassOutcome:
    """Let layers read the parts of concatenations, and add up what they give.

    Before: `cat(a, b) -> conv2d(w, bias)`                                      w (K, A + B, ...)
    After:  `add(conv2d(a, w[:, :A], bias), conv2d(b, w[:, A:]))`

    Args:
        exported: The program.
        parts: Of those that are to be split.
    """
    editor = ProgramEditor(exported)
    for node in editor.calls(aten.cat.default):
        if node.name not in parts:
            continue
        sources, axis = _sources(node), _axis(node)
        part_of = parts[node.name]
        widths = torch.tensor([own.meta["val"].shape[axis] for own in sources])
        part_of_channel = part_of.repeat_interleave(widths)
        joined = []
        for part in (0, 1):
            members = [own for own, place in zip(sources, part_of.tolist(), strict=True) if place == part]
            several = len(members) > 1
            joined.append(editor.insert(node, aten.cat.default, members, axis) if several else members[0])
        for reader in list(node.users):
            weight, operator = editor.constant(reader.args[1]), reader.target
            assert weight is not None
            assert callable(operator)
            results = []
            for part, own in enumerate(joined):
                columns = weight[:, (part_of_channel == part).nonzero().flatten()]
                constant = editor.add_constant(f"{reader.name}_part{part}_weight", columns)
                bias = reader.args[2:3] if part == 0 else (None,) * len(reader.args[2:3])
                arguments = own, constant, *bias, *reader.args[3:]
                results.append(editor.insert(reader, operator, *arguments, like=reader))
            editor.replace(reader, editor.insert(reader, aten.add.Tensor, *results, like=reader))
        editor.graph.erase_node(node)
    return outcome(editor)


def _sources(concat: Node) -> list[Node]:
    sources = concat.args[0]
    assert isinstance(sources, list | tuple)
    return [source for source in sources if isinstance(source, Node)]


def _axis(concat: Node) -> int:
    axis = concat.args[1] if len(concat.args) > 1 else 0
    assert isinstance(axis, int)
    return axis % int(concat.meta["val"].dim())


def _can_split(node: Node, constants: Mapping[str, torch.Tensor]) -> bool:
    """Tell whether all that reads a concatenation is layers that sum over its axis."""
    sources, axis, rank = _sources(node), _axis(node), node.meta["val"].dim()
    if len(sources) < 2 or not all(isinstance(own.meta["val"].shape[axis], int) for own in sources):
        return False
    for reader in node.users:
        if reader.target not in WEIGHTED or reader.kwargs or reader.args[0] is not node:
            return False
        if groups_of(reader) != 1 or getattr(reader.args[1], "name", "") not in constants:
            return False
        if axis != (rank - 1 if reader.target is aten.linear.default else 1):
            return False
    return bool(node.users)


def _parts(inputs: list[ChannelStatistics], sensitivity: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Return the two parts, by the inputs' ranges, with the least noise, and what they save."""
    own = torch.split(sensitivity, [item.least.shape[1] for item in inputs])
    matters = torch.stack([item.sum() for item in own])
    ends = torch.stack([torch.stack([item.least.amin(), item.greatest.amax()]) for item in inputs])
    low, high = ends[:, 0].clamp_max(0), ends[:, 1].clamp_min(0)  # (inputs,)

    def noise(part: torch.Tensor) -> float:
        step = (high[part].amax() - low[part].amin()) / 255
        return float(step.square() / 12 * matters[part].sum())

    by_range = (high - low).argsort()
    candidates = [(by_range[:count], by_range[count:]) for count in range(1, len(inputs))]
    narrow, wide = min(candidates, key=lambda parts: noise(parts[0]) + noise(parts[1]))
    parts = torch.zeros(len(inputs), dtype=torch.int64)
    parts[narrow] = 1
    return parts, noise(by_range) - noise(narrow) - noise(wide)
