"""What is done to the channels of a float program before it is quantized: found together, then applied."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch.fx import Node

from edgecompile.dataset import Sample
from edgecompile.program import CapturedProgram, step_record
from edgecompile.progress import Progress
from edgecompile.quantize.absorb import Offsets, apply_offsets, find_offsets, missing_of
from edgecompile.quantize.channel_statistics import ChannelStatistics, measure_channels
from edgecompile.quantize.channels import Channels, channels_of
from edgecompile.quantize.equalize import (
    ChannelFactors,
    RoundingNoise,
    apply_factors,
    find_factors,
    is_rounded,
    name_after,
)
from edgecompile.quantize.layers import clamp_bounds
from edgecompile.quantize.split_concats import ConcatParts, find_parts, split_concats
from edgecompile.quantize.split_outliers import find_counts, repeat_channels, repeated_indices
from edgecompile.target import QuantizationSettings

_LEAST_NOISE_LEFT = 0.89  # Concatenations are split for 0.5 dB or more of what is predicted.


@dataclass(frozen=True, kw_only=True, eq=False)
class ChannelFit:
    """What the channels of a program are multiplied by, and what is then taken out of them.

    Attributes:
        parts: The concatenations that are split first; all else is of the program after that.
        factors: Those that are not 1.
        offsets: Those that are not 0.
        counts: Of each unit of channels, how often it is computed, (units,), in the order of `find_groups`;
            empty where each is once.
        sensitivities: By the name of a value's node, how much noise on each channel matters once all that is
            done, on average 1, in a shape that broadcasts to the value.
        reaches: By the same names, how far one more sample may be from those that were measured, (2, C).
        gain_db: By how much the factors lower the noise that is predicted at the outputs.
    """

    parts: ConcatParts
    factors: ChannelFactors
    offsets: Offsets
    counts: torch.Tensor
    sensitivities: dict[str, torch.Tensor]
    reaches: dict[str, torch.Tensor]
    gain_db: float


@dataclass(frozen=True, kw_only=True, eq=False)
class _Equalized:
    """What factors are chosen for a program.

    Attributes:
        by_name: The factors of each value's channels, by its node's name.
        noise: That is predicted with them.
        gain_db: How much less that is than without.
    """

    channels: Channels
    statistics: dict[Node, ChannelStatistics]
    by_name: dict[str, torch.Tensor]
    noise: float
    gain_db: float

    def scaled(self) -> dict[str, ChannelStatistics]:
        """Return the statistics with the factors, by the nodes' names."""
        return {node.name: item.scaled(self.by_name[node.name]) for node, item in self.statistics.items()}


def _equalize(
    program: CapturedProgram, samples: Sequence[Sample], settings: QuantizationSettings, progress: Progress
) -> _Equalized:
    progress.start("fit channels", len(samples))
    channels = channels_of(program.exported)
    statistics = measure_channels(program, channels, samples, progress)
    noise = RoundingNoise(program.exported, channels, statistics, settings.weight_limit)
    factor = torch.ones(channels.count)
    if settings.equalization:
        factor = find_factors(noise, channels, statistics)
    before, left = float(noise.total(torch.ones_like(factor))), float(noise.total(factor))
    gain_db = 10 * math.log10(before / left) if left > 0 else 0.0
    return _Equalized(
        channels=channels,
        statistics=statistics,
        by_name={node.name: factor[ids] for node, ids in channels.ids.items()},
        noise=left,
        gain_db=gain_db,
    )


def _apart(
    program: CapturedProgram, samples: Sequence[Sample], settings: QuantizationSettings, progress: Progress
) -> tuple[CapturedProgram, _Equalized, ConcatParts]:
    """Return the program with its concatenations split where that is predicted to pay, and the factors."""
    found = _equalize(program, samples, settings, progress)
    wanted = settings.concat_splitting
    parts = find_parts(program.exported, found.scaled(), found.noise) if wanted else {}
    if not parts:
        return program, found, parts
    progress.finish(f"{len(samples)} samples, {found.gain_db:.1f} dB less noise predicted")
    split = replace(program, exported=split_concats(program.exported, parts).program)
    again = _equalize(split, samples, settings, progress)
    if again.noise < found.noise * _LEAST_NOISE_LEFT:
        return split, again, parts
    return program, found, {}


def find_fit(
    program: CapturedProgram,
    samples: Sequence[Sample],
    settings: QuantizationSettings,
    progress: Progress,
) -> ChannelFit:
    """Measure the channels, and choose factors and offsets.

    Args:
        program: The program after the passes.
        samples: Calibration data.
        settings: Say what is wanted.
        progress: Is told of each sample.
    """
    program, found, parts = _apart(program, samples, settings, progress)
    channels, statistics, by_name, left = found.channels, found.statistics, found.by_name, found.noise
    factors = {name: values for name, values in by_name.items() if not bool((values == 1).all())}

    multiplied = apply_factors(program.exported, factors).program
    new_name = {node: name_after(node, factors) for node in statistics}
    known = {new_name[node]: item.scaled(by_name[node.name]) for node, item in statistics.items()}
    new_channels, offsets = channels_of(multiplied), Offsets()
    if settings.bias_absorption:
        rounded = {new_name[node] for node in statistics if is_rounded(node)}
        values = {node: known[node.name] for node in multiplied.graph.nodes if node.name in rounded}
        offsets = find_offsets(multiplied, new_channels, values, left)
    counts = None
    if settings.channel_splitting:
        shifted = apply_offsets(multiplied, new_channels, offsets).program
        counts = find_counts(shifted, known, left, settings)
    for name, missing in missing_of(multiplied, new_channels, offsets).items():
        if name in known:
            known[name] = known[name].shifted(-missing.float())
    done = [f"{len(offsets)} biases moved" if offsets else "no bias moved"]
    if parts:
        done.append(f"{len(parts)} concatenations split")
    if counts is not None:
        done.append(f"{int(counts.sum()) - len(counts)} channels split")
    progress.finish(f"{len(samples)} samples, {found.gain_db:.1f} dB less noise predicted, {', '.join(done)}")
    sensitivities = {
        new_name[node]: along_axis(known[new_name[node]].sensitivity, node, channels) for node in statistics
    }
    sensitivities = {name: own / own.mean() for name, own in sensitivities.items() if bool(own.any())}
    reaches = {new_name[node]: known[new_name[node]].reach.clamp(*clamp_bounds(node)) for node in statistics}
    if counts is not None:
        for name, indices in repeated_indices(shifted, counts).items():
            if name in sensitivities:
                sensitivities[name] = sensitivities[name].index_select(0, indices)
            if name in reaches:
                reaches[name] = reaches[name].index_select(1, indices)
    return ChannelFit(
        parts=parts,
        factors=factors,
        offsets=offsets,
        counts=torch.empty(0, dtype=torch.int64) if counts is None else counts,
        sensitivities=sensitivities,
        reaches=reaches,
        gain_db=found.gain_db,
    )


def along_axis(per_channel: torch.Tensor, node: Node, channels: Channels) -> torch.Tensor:
    """Return something of each channel, (C,), in a shape that broadcasts to the value."""
    after = node.meta["val"].dim() - 1 - channels.axis[node]
    return per_channel.reshape(-1, *[1] * after)


def fitted(program: CapturedProgram, fit: ChannelFit) -> CapturedProgram:
    """Return the program with its channels multiplied, and with less in their biases."""
    exported, steps = program.exported, []
    if fit.parts:
        started = time.perf_counter()
        apart = split_concats(exported, fit.parts)
        steps.append(step_record("split-concats", started, exported, apart.program, rewrites=apart.rewrites))
        exported = apart.program
    started = time.perf_counter()
    multiplied = apply_factors(exported, fit.factors)
    steps.append(step_record("equalize", started, exported, multiplied.program, rewrites=multiplied.rewrites))
    exported = multiplied.program
    if fit.offsets:
        started = time.perf_counter()
        moved = apply_offsets(exported, channels_of(exported), fit.offsets)
        steps.append(step_record("absorb", started, exported, moved.program, rewrites=moved.rewrites))
        exported = moved.program
    if len(fit.counts):
        started = time.perf_counter()
        split = repeat_channels(exported, fit.counts)
        steps.append(
            step_record(
                "split-channels", started, exported, split, rewrites=int(fit.counts.sum()) - len(fit.counts)
            )
        )
        exported = split
    return replace(
        program,
        exported=exported,
        steps=(*program.steps, *steps),
        sensitivities=fit.sensitivities,
        reaches=fit.reaches,
    )
