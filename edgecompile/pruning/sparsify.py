"""Weights that become zero where they are: the shapes stay.

Which ones is told by their magnitudes. For a share of all weights those of different layers have to be
compared, which LAMP does (Lee et al. 2021, "Layer-adaptive Sparsity for the Magnitude-based Pruning",
arXiv:2010.07611): a weight's score is its square by the sum of the squares of its layer's weights that are
not smaller. For N:M the N largest of each M neighbours along the input channels stay, within one tap of one
output channel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.errors import NothingToPruneError, UnknownLayerError
from edgecompile.graph_edit import ProgramEditor, operand, source_line
from edgecompile.layer_rows import TRANSPOSED, groups_of
from edgecompile.program import Declined
from edgecompile.pruning.channel_groups import layer_name
from edgecompile.pruning.layer_inputs import LAYERS
from edgecompile.pruning.sparsity import Sparsity
from edgecompile.quantize.layers import constants_of


@dataclass(frozen=True, kw_only=True, eq=False)
class SparseLayers:
    """What of a program can have zeros.

    Attributes:
        weights: By the layer's node, in order.
        declined: The other layers, and why.
    """

    weights: Mapping[Node, torch.Tensor]
    declined: tuple[Declined, ...]


def sparse_layers(exported: ExportedProgram, exclude: Iterable[str] = ()) -> SparseLayers:
    """Find the layers of a program that can have zeros.

    Args:
        exported: The program.
        exclude: Layers that stay as they are, by name or by a pattern with `*`.

    Raises:
        UnknownLayerError: A pattern is for no layer.
    """
    nodes = [node for node in exported.graph.nodes if node.target in LAYERS]
    names = sorted({layer_name(node) for node in nodes})
    for pattern in exclude:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UnknownLayerError(pattern, names, where="pruning.exclude")
    constants = constants_of(exported)
    weights: dict[Node, torch.Tensor] = {}
    declined = []
    for node in nodes:
        reason = _why_not(node, constants, exclude)
        if reason is None:
            weights[node] = constants[operand(node, 1).name]
        else:
            declined.append(Declined(what=layer_name(node), where=source_line(node), reason=reason))
    return SparseLayers(weights=weights, declined=tuple(declined))


def _why_not(node: Node, constants: Mapping[str, torch.Tensor], exclude: Iterable[str]) -> str | None:
    weight = node.args[1]
    if not isinstance(weight, Node) or weight.name not in constants:
        return "its weight is computed, not constant"
    if any(isinstance(bias, Node) and bias.name not in constants for bias in node.args[2:3]):
        return "its bias is computed, not constant"
    if len(weight.users) > 1:
        return "its weight is used elsewhere too"
    groups = groups_of(node)
    if groups > 1 and channels_read(node, constants[weight.name]) == 1:
        return "it is depthwise: a filter of few weights sees one channel"
    if any(fnmatchcase(layer_name(node), pattern) for pattern in exclude):
        return "pruning.exclude says so"
    return None


def channels_read(node: Node, weight: torch.Tensor) -> int:
    """Return how many input channels each output channel of a layer reads."""
    return weight.shape[0] // groups_of(node) if node.target in TRANSPOSED else weight.shape[1]


def zeroed(exported: ExportedProgram, layers: SparseLayers, sparsity: Sparsity) -> ExportedProgram:
    """Return a program with zeros, the other weights as they are.

    Args:
        exported: The program.
        layers: Those of its layers that can have zeros.
        sparsity: How many.

    Raises:
        NothingToPruneError: No weight can become zero.
    """
    weights = list(layers.weights.values())
    if sparsity.pattern is None:
        masks = masks_of_share(weights, sparsity.share) if weights else []
    else:
        masks = [mask_of_pattern(node, weight, *sparsity.pattern) for node, weight in layers.weights.items()]
    if all(bool(mask.all()) for mask in masks):
        raise _nothing_to_prune(layers, sparsity)
    named = {node.name: mask for node, mask in zip(layers.weights, masks, strict=True)}
    editor = ProgramEditor(exported)
    for node in editor.calls(*LAYERS):
        mask = named.get(node.name)
        if mask is None or bool(mask.all()):
            continue
        weight = editor.constant(node.args[1])
        assert weight is not None
        editor.set_constant(operand(node, 1), weight.masked_fill(~mask, 0.0))
    return editor.finish()


def masks_of_share(weights: Sequence[torch.Tensor], share: float) -> list[torch.Tensor]:
    """Return which weights of several layers stay, bool: the best scores over all, and one of each layer."""
    scores = torch.cat([lamp_scores(weight).flatten() for weight in weights])
    stays = torch.ones(len(scores), dtype=torch.bool)
    count = min(round(share * len(scores)), len(scores) - len(weights))
    stays[scores.argsort(stable=True)[:count]] = False
    parts = torch.split(stays, [weight.numel() for weight in weights])
    return [part.reshape(weight.shape) for part, weight in zip(parts, weights, strict=True)]


def lamp_scores(weight: torch.Tensor) -> torch.Tensor:
    """Return a score for each weight of a layer, float64; the greatest has 1, so that no layer loses all."""
    squares, order = weight.detach().double().square().flatten().sort(stable=True)
    not_smaller = squares.flip(0).cumsum(0).flip(0)
    scores = torch.empty_like(squares)
    scores[order] = squares / not_smaller.clamp_min(torch.finfo(torch.float64).tiny)
    return scores.reshape(weight.shape)


def mask_of_pattern(node: Node, weight: torch.Tensor, kept: int, of: int) -> torch.Tensor:
    """Return which weights of a layer stay, bool, of the weight's shape.

    Of input channels that are left over, fewer than `of`, as many stay: padded with zeros they fit too.

    Args:
        node: The layer.
        weight: Its weight.
        kept: How many of the neighbours stay.
        of: How many neighbours there are; none is of another group of channels.
    """
    groups = groups_of(node) if node.target in TRANSPOSED else 1
    # The channels that an output reads come last.
    rows = weight.detach().abs().reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    axis = 1 if node.target in TRANSPOSED else 2
    rows = rows.movedim(axis, -1)
    count = rows.shape[-1]
    padded = torch.nn.functional.pad(rows, (0, -count % of), value=-1.0)
    neighbours = padded.reshape(*padded.shape[:-1], -1, of)
    best = neighbours.argsort(dim=-1, descending=True, stable=True)[..., :kept]
    stays = torch.zeros_like(neighbours, dtype=torch.bool).scatter(-1, best, True)
    stays = stays.reshape(padded.shape)[..., :count].movedim(-1, axis)
    return stays.reshape(weight.shape)


def _nothing_to_prune(layers: SparseLayers, sparsity: Sparsity) -> NothingToPruneError:
    reasons = [f"{row.what}: {row.reason}" for row in layers.declined]
    reasons += [
        f"{layer_name(node)}: too few weights ({'x'.join(map(str, weight.shape))})"
        for node, weight in layers.weights.items()
    ]
    return NothingToPruneError(
        "no weight of the model can become zero",
        where=f"sparsity: {sparsity.text}",
        found="\n".join(reasons[:20]) or "no convolution and no linear layer",
        hint="build without --sparsity",
    )
