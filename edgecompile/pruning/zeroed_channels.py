"""The proof of the surgery: the pruned program gives what the whole one gives with the same channels zeroed.

The whole program runs, and after every operator the channels that were removed are set to 0; what reads them
then reads zeros. Means over the channels themselves (of a layer norm) are those of the channels that stay.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.errors import PruningBrokeProgramError
from edgecompile.graph_edit import operand, output_nodes, source_line
from edgecompile.pruning.channel_groups import ChannelGroups
from edgecompile.pruning.labels import Labels
from edgecompile.pruning.pruned_program import PrunedProgram
from edgecompile.pruning.rules_of_layers import whole_groups
from edgecompile.pruning.rules_of_shapes import reduced_axes
from edgecompile.quantize.node_values import all_values, computed_value, given_values

aten = torch.ops.aten

# Of the greatest absolute output: float32 sums of other lengths round otherwise.
TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What was compared.

    Attributes:
        samples: How many inputs.
        greatest_error: The greatest difference of an output, a share of the output's greatest absolute value.
    """

    samples: int
    greatest_error: float


def prove(pruned: PrunedProgram, samples: Sequence[Sequence[torch.Tensor]]) -> Proof:
    """Compare a pruned program with the whole one with zeroed channels.

    Args:
        pruned: What the surgery made, before any recovery.
        samples: Inputs.

    Raises:
        PruningBrokeProgramError: They differ by more than floating point explains: a bug of ours.
    """
    worst = 0.0
    pairs = list(zip(output_nodes(pruned.whole.graph), output_nodes(pruned.exported.graph), strict=True))
    for inputs in samples:
        with torch.no_grad():
            expected = zeroed_values(pruned.whole, pruned.groups, pruned.keep, inputs)
            found = all_values(pruned.exported, inputs)
        worst = max([worst, *(relative_error(expected[one], found[other]) for one, other in pairs)])
        if not worst <= TOLERANCE:
            raise _broke(pruned.groups, pruned.keep, expected, found, worst)
    return Proof(samples=len(samples), greatest_error=worst)


def zeroed_values(
    exported: ExportedProgram, groups: ChannelGroups, keep: torch.Tensor, inputs: Sequence[torch.Tensor]
) -> dict[Node, Any]:
    """Return the value of every node, with the channels of units that do not stay set to 0."""
    values = given_values(exported, inputs)
    for node in exported.graph.nodes:
        if node.op != "call_function":
            continue
        labels = groups.of_values.get(operand(node)) if _reads_value(node) else None
        over_channels = _OVER_CHANNELS.get(node.target)
        if over_channels is not None and labels is not None:
            values[node] = over_channels(node, values, labels, keep)
        else:
            values[node] = computed_value(node, values)
        if node in groups.of_values:
            values[node] = values[node].masked_fill(~_mask(groups.of_values[node], keep, values[node]), 0)
    return values


def relative_error(expected: torch.Tensor, found: torch.Tensor) -> float:
    """Return the greatest difference, a share of the greatest absolute value; infinite for other shapes."""
    if expected.shape != found.shape:
        return math.inf
    if not expected.numel():
        return 0.0
    one, other = expected.double(), found.double()
    difference = (one - other).abs().masked_fill(one == other, 0).max()  # masked logits are -inf in both
    greatest = one.abs().masked_fill(~one.isfinite(), 0).max()
    return float(difference / greatest.clamp_min(1e-12))


def _broke(
    groups: ChannelGroups,
    keep: torch.Tensor,
    expected: dict[Node, Any],
    found: dict[Node, Any],
    worst: float,
) -> PruningBrokeProgramError:
    """Return an error that names the first value that differs."""
    by_name = {node.name: value for node, value in found.items()}
    labelled = groups.of_values.items()
    differing = (node for node, labels in labelled if _differs(node, labels, keep, expected, by_name))
    first = next(differing, None)
    return PruningBrokeProgramError(
        f"removing channels is not the same as zeroing them: outputs differ by {worst:.2g} of their range",
        where="" if first is None else f"{first.name}: {source_line(first)}",
        hint="build without --prune, and report this as a bug of edgecompile",
    )


def _differs(
    node: Node,
    labels: Labels,
    keep: torch.Tensor,
    expected: dict[Node, Any],
    found: dict[str, Any],
) -> bool:
    if node not in expected or node.name not in found:
        return False
    value = expected[node]
    for axis, indices in labels.kept(keep).items():
        value = value.index_select(axis, indices)
    return not relative_error(value, found[node.name]) <= TOLERANCE


def _reads_value(node: Node) -> bool:
    return bool(node.args) and isinstance(node.args[0], Node)


def _mask(labels: Labels, keep: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Return which elements stay, in a shape that broadcasts to a value."""
    shape = [size if labels.on(axis) else 1 for axis, size in enumerate(value.shape)]
    return keep[labels.ids].reshape(shape)


def _layer_norm(node: Node, values: dict[Node, Any], labels: Labels, keep: torch.Tensor) -> torch.Tensor:
    shape = node.args[1]
    assert isinstance(shape, list | tuple)
    value: torch.Tensor = values[operand(node)]
    axes = tuple(range(value.dim() - len(shape), value.dim()))
    weight, bias, epsilon = (_argument(node, values, place) for place in (2, 3, 4))
    mask = _mask(labels, keep, value).expand_as(value)
    if node.target is aten.rms_norm.default:
        epsilon, bias = bias, None  # it takes no bias, and its epsilon comes earlier
        epsilon = torch.finfo(value.dtype).eps if epsilon is None else epsilon
        normalized = value * (_mean(value.square(), mask, axes) + epsilon).rsqrt()
    else:
        normalized = _standardized(value, mask, axes, 1e-5 if epsilon is None else epsilon)
    normalized = normalized if weight is None else normalized * weight
    return normalized if bias is None else normalized + bias


def _group_norm(node: Node, values: dict[Node, Any], labels: Labels, keep: torch.Tensor) -> torch.Tensor:
    if whole_groups(node):
        return computed_value(node, values)  # type: ignore[no-any-return]
    value, groups = values[operand(node)], node.args[1]
    assert isinstance(groups, int)
    grouped = value.reshape(value.shape[0], groups, -1)
    mask = _mask(labels, keep, value).expand_as(value).reshape(grouped.shape)
    weight, bias, epsilon = (_argument(node, values, place) for place in (2, 3, 4))
    normalized = _standardized(grouped, mask, (2,), 1e-5 if epsilon is None else epsilon).reshape(value.shape)
    column = [1, -1] + [1] * (value.dim() - 2)
    normalized = normalized if weight is None else normalized * weight.reshape(column)
    return normalized if bias is None else normalized + bias.reshape(column)


def _mean_of_channels(
    node: Node, values: dict[Node, Any], labels: Labels, keep: torch.Tensor
) -> torch.Tensor:
    if not reduced_axes(node) & set(labels.axes):
        return computed_value(node, values)  # type: ignore[no-any-return]
    stays = keep[labels.ids]
    return computed_value(node, values) * (stays.numel() / stays.sum())  # type: ignore[no-any-return]


def _argument(node: Node, values: dict[Node, Any], place: int) -> Any:
    argument = node.args[place] if len(node.args) > place else None
    return values[argument] if isinstance(argument, Node) else argument


def _mean(value: torch.Tensor, mask: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
    return (value * mask).sum(axes, keepdim=True) / mask.sum(axes, keepdim=True)


def _standardized(
    value: torch.Tensor, mask: torch.Tensor, axes: tuple[int, ...], epsilon: float
) -> torch.Tensor:
    centred = value - _mean(value, mask, axes)
    return centred * (_mean(centred.square(), mask, axes) + epsilon).rsqrt()


_OVER_CHANNELS: dict[object, Callable[[Node, dict[Node, Any], Labels, torch.Tensor], torch.Tensor]] = {
    aten.layer_norm.default: _layer_norm,
    aten.rms_norm.default: _layer_norm,
    aten.group_norm.default: _group_norm,
    aten.mean.dim: _mean_of_channels,
    aten.mean.default: _mean_of_channels,
}
