"""Cross-layer equalization: channels are scaled so that one scale a tensor fits all of them.

A scale that one layer's rows take up and the next layer's columns take back changes nothing in float (Nagel
et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.1). With
one scale for each row of the weights the rows lose nothing, but the columns and the activations do: so the
factors are those with the least noise that INT8 is predicted to bring to the outputs, over both. The trade
between activations and weights is that of Xiao et al. 2023, "SmoothQuant", with the gradients' word for
how much each channel matters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from operator import is_not
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.graph_edit import ProgramEditor, operand
from edgecompile.graph_pass import PassOutcome, outcome
from edgecompile.quantize.channel_statistics import ChannelStatistics
from edgecompile.quantize.channels import IN_FLOAT, NORMS, Channels, channels_of, read_by_rows, scale_of
from edgecompile.quantize.layers import CLAMPS, WEIGHTED, constants_of

aten = torch.ops.aten

_COMPUTING = (
    *WEIGHTED,
    *CLAMPS,
    *IN_FLOAT,
    *NORMS,
    aten.add.Tensor,
    aten.mul.Tensor,
    aten.mean.dim,
    aten.cat.default,
)

_STEPS, _RATE = 60, 0.15  # of Adam, on the logarithms of the factors; more change the noise by under 0.2 dB
_LARGEST_FACTOR = 32.0
# A channel may grow until its greatest value of all samples, and so many times the distance from there to the
# median of the samples' greatest values, would be clipped: beyond it the program would not be the same.
_TAIL = 6.0
_LEAST_GAIN_DB = 1.5  # Below it the prediction is not sure enough.
# Beside an operator in float a factor costs a product at run time; less noise than this is not worth it.
_WORTH_A_PRODUCT = 1.03
_ROWS = 256  # of a layer, drawn evenly, for the range of its columns

ChannelFactors = dict[str, torch.Tensor]
"""By the name of a value's node, what each of its channels is multiplied by, (C,); 1 is left out."""


def apply_factors(exported: ExportedProgram, factors: ChannelFactors) -> PassOutcome:
    """Multiply the channels: rows of the layer before them, columns of the layers after them.

    Before: `x -> conv2d(w1, b1) -> relu -> conv2d(w2, b2)`
    After:  `x -> conv2d(w1 * s, b1 * s) -> relu -> conv2d(w2 / s, b2)`, s > 0 for each channel between

    Before: `x -> conv2d(w1, b1) -> hardswish -> conv2d(w2, b2)`
    After:  `x -> conv2d(w1 * s, b1 * s) -> mul(1 / s) -> hardswish -> mul(t) -> conv2d(w2 / t, b2)`

    Before: `x -> linear(w1, b1) -> norm(gamma, beta) -> linear(w2, b2)`
    After:  `x -> linear(w1 * s, b1 * s) -> mul(1 / s) -> norm(gamma * t, beta * t) -> linear(w2 / t, b2)`

    Computed in float64 and rounded once.
    """
    editor = ProgramEditor(exported)
    beside = [(node, operand(node).name) for node in editor.calls(*IN_FLOAT, *NORMS)]
    for node in editor.calls(*WEIGHTED):
        rows, columns = factors.get(node.name), factors.get(operand(node).name)
        if rows is None and columns is None:
            continue
        weight = editor.constant(node.args[1])
        assert weight is not None
        scaled = weight.double()
        if columns is not None:
            by_row = read_by_rows(node, weight, columns.double())
            scaled = scaled / by_row.reshape(*by_row.shape, *[1] * (weight.dim() - 2))
        if rows is not None:
            scaled = scaled * rows.double().reshape(-1, *[1] * (weight.dim() - 1))
            bias = editor.constant(node.args[2]) if len(node.args) > 2 else None
            if bias is not None:
                equalized = (bias.double() * rows.double()).to(bias.dtype)
                node.update_arg(2, editor.add_constant(f"{node.name}_bias", equalized))
        node.update_arg(1, editor.add_constant(f"{node.name}_weight", scaled.to(weight.dtype)))
        editor.rewrites += 1
    axes = {node.name: axis for node, axis in channels_of(exported).axis.items()} if beside else {}
    for node, source in beside:
        if source in factors:
            node.update_arg(
                0, _product(editor, node, operand(node), 1 / factors[source].double(), axes[source])
            )
            editor.rewrites += 1
        if node.name not in factors:
            continue
        editor.rewrites += 1
        if node.target in NORMS:
            _scale_norm(editor, node, factors[node.name].double())
        else:
            product = _product(editor, node.next, node, factors[node.name].double(), axes[node.name])
            node.replace_all_uses_with(product, delete_user_cb=partial(is_not, product))
            product.name = name_after(node, factors)
    return outcome(editor)


def _scale_norm(editor: ProgramEditor, node: Node, factor: torch.Tensor) -> None:
    """Multiply what a norm gives for each channel: its gamma, 1 where it has none, and its beta."""
    gamma, beta = (editor.constant(part) for part in scale_of(node))
    given: list[Any] = [*node.args, *[None] * (3 - len(node.args))]
    scaled = (factor if gamma is None else gamma.double() * factor).to(node.meta["val"].dtype)
    given[2] = editor.add_constant(f"{node.name}_gamma", scaled)
    if beta is not None:
        given[3] = editor.add_constant(f"{node.name}_beta", (beta.double() * factor).to(beta.dtype))
    node.args = tuple(given)


def name_after(node: Node, factors: ChannelFactors) -> str:
    """Return what a value is called once it is multiplied: after an operator in float that is a product."""
    return f"{node.name}_scaled" if node.target in IN_FLOAT and node.name in factors else node.name


def _product(editor: ProgramEditor, before: Node, value: Node, factor: torch.Tensor, axis: int) -> Node:
    """Insert the product of a value with a factor for each channel, (C,)."""
    shape = [1] * value.meta["val"].dim()
    shape[axis] = len(factor)
    constant = editor.add_constant(f"{value.name}_factor", factor.float().reshape(shape))
    return editor.insert(before, aten.mul.Tensor, value, constant, like=value)


@dataclass(frozen=True, kw_only=True, eq=False)
class _RoundedValue:
    """An activation that is rounded; all (C,)."""

    ids: torch.Tensor
    least: torch.Tensor
    greatest: torch.Tensor
    sensitivity: torch.Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class _RoundedWeight:
    """Some rows of a layer's weight.

    Attributes:
        ids: (rows, C / groups), of the input's channel that each column reads.
        magnitude: The greatest absolute value, (rows, C / groups).
        power: Of the input's channel, (rows, C / groups).
        sensitivity: Of the row's output, for all rows that it stands for, (rows,).
    """

    ids: torch.Tensor
    magnitude: torch.Tensor
    power: torch.Tensor
    sensitivity: torch.Tensor


class RoundingNoise:
    """Predicts the noise at the outputs, relative to their power, for factors of the channels.

    Args:
        exported: The program.
        channels: Its channels.
        statistics: Of all of them.
        limit: The greatest absolute integer of a weight.
    """

    def __init__(
        self,
        exported: ExportedProgram,
        channels: Channels,
        statistics: Mapping[Node, ChannelStatistics],
        limit: int,
    ) -> None:
        constants = constants_of(exported)
        self._limit = limit
        self._values = [
            _RoundedValue(
                ids=channels.ids[node],
                least=item.least.amin(0),
                greatest=item.greatest.amax(0),
                sensitivity=item.sensitivity,
            )
            for node, item in statistics.items()
            if is_rounded(node)
        ]
        self._weights = [
            _rounded_weight(node, constants[operand(node, 1).name], channels, statistics)
            for node in exported.graph.nodes
            if node.target in WEIGHTED and node in statistics and node.args[0] in statistics
            # The scale of a row takes up that of its one column; and what is held stays.
            if constants[node.args[1].name].shape[1] > 1
            if not channels.held[channels.ids[node.args[0]]].all()
        ]

    def total(self, factor: torch.Tensor) -> torch.Tensor:
        """Return the noise of rounding all activations and weights, for factors of all ids."""
        noise = torch.zeros(())
        for value in self._values:
            scale = factor[value.ids]
            low, high = (value.least * scale).amin(), (value.greatest * scale).amax()
            step = (high.clamp_min(0) - low.clamp_max(0)) / 255
            noise = noise + step.square() / 12 * (value.sensitivity / scale.square()).sum()
        for weight in self._weights:
            scale = factor[weight.ids]
            step = (weight.magnitude / scale).amax(1) / self._limit
            rounding = step.square() / 12 * (scale.square() * weight.power).sum(1)
            noise = noise + (rounding * weight.sensitivity).sum()
        return noise


def is_rounded(node: Node) -> bool:
    """Tell whether a value is quantized: not what only moves another, nor what is clamped before."""
    if node.op != "placeholder" and node.target not in _COMPUTING:
        return False
    users = list(node.users)
    return not (len(users) == 1 and users[0].target in CLAMPS)


def _rounded_weight(
    node: Node, weight: torch.Tensor, channels: Channels, statistics: Mapping[Node, ChannelStatistics]
) -> _RoundedWeight:
    source = operand(node)
    kept = slice(None, None, max(1, len(weight) // _ROWS))
    reads = read_by_rows(node, weight, torch.arange(len(channels.ids[source])))[kept]  # (rows, C / groups)
    return _RoundedWeight(
        ids=channels.ids[source][reads],
        magnitude=weight[kept].abs().flatten(2).amax(2) if weight.dim() > 2 else weight[kept].abs(),
        power=statistics[source].power[reads],
        # Each tap of a kernel is rounded by itself.
        sensitivity=statistics[node].sensitivity[kept] * weight.shape[2:].numel() * len(weight) / len(reads),
    )


def find_factors(
    noise: RoundingNoise, channels: Channels, statistics: Mapping[Node, ChannelStatistics]
) -> torch.Tensor:
    """Return the factors of all ids; all 1 where they gain too little.

    The channels of clamps are scaled only where that is worth as much again as the least gain: their clip
    makes the program the same up to a value only.
    """
    ones = torch.ones(channels.count)
    before = float(noise.total(ones))
    clipped = torch.zeros(channels.count, dtype=torch.bool)
    for node in channels.clipped:
        clipped[channels.ids[node]] = True
    best, least = ones, before
    limits = _limits(channels, statistics)
    for fixed in (channels.held | clipped, channels.held) if channels.clipped else (channels.held,):
        factor = _descend(noise, fixed, limits)
        found = float(noise.total(factor))
        if found > 0 and 10 * math.log10(least / found) >= _LEAST_GAIN_DB:
            best, least = factor, found
    return _without_needless_products(noise, channels, best)


def _without_needless_products(
    noise: RoundingNoise, channels: Channels, factor: torch.Tensor
) -> torch.Tensor:
    """Return factors of 1 beside operators in float where the others are worth too little for a product."""
    least = float(noise.total(factor))
    for node in channels.ids:
        if node.target not in (*IN_FLOAT, *NORMS):
            continue
        for value in (operand(node), node) if node.target in IN_FLOAT else (operand(node),):
            without = factor.clone()
            without[channels.ids[value]] = 1.0
            if float(noise.total(without)) <= least * _WORTH_A_PRODUCT:
                factor = without
    return factor


def _limits(
    channels: Channels, statistics: Mapping[Node, ChannelStatistics]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the least and the greatest logarithm of each id's factor."""
    greatest = torch.full((channels.count,), math.log(_LARGEST_FACTOR))
    least = -greatest
    for node, bound in channels.clipped.items():
        ids, reached = channels.ids[node], statistics[node].greatest.amax(0)
        spread = reached - statistics[node].greatest.median(0).values
        room = bound / (reached + _TAIL * spread).clamp_min(1e-6)
        # What reaches the clip must stay as it is, and what does not may grow.
        greatest.scatter_reduce_(0, ids, torch.log(room).clamp_min(0), "amin")
        least[ids] = 0.0
    return least, greatest


def _descend(
    noise: RoundingNoise, fixed: torch.Tensor, limits: tuple[torch.Tensor, torch.Tensor]
) -> torch.Tensor:
    """Return the factors with the least noise that Adam finds; 1 for those that are fixed."""
    free = (~fixed).to(torch.float32)
    logarithm = torch.zeros(len(fixed), requires_grad=True)
    optimizer = torch.optim.Adam([logarithm], _RATE)
    for step in range(_STEPS):
        optimizer.param_groups[0]["lr"] = _RATE * (1 - step / _STEPS)
        optimizer.zero_grad()
        with torch.enable_grad():
            torch.log(noise.total(torch.exp(logarithm * free))).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        with torch.no_grad():
            logarithm.clamp_(min=limits[0], max=limits[1])
    return torch.exp(logarithm.detach() * free)
