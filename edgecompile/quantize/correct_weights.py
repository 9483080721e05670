"""After calibration: weights rounded so that their errors cancel, and biases that take up what is left.

Rounded one by one, the weights of a row give a sum of errors on every input. Here each error is taken up by
the weights of the row that are not rounded yet, in the proportion that changes the row's output least on the
calibration data (Frantar et al. 2023, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", after Hassibi & Stork 1993, "Optimal Brain Surgeon"). The bias is then corrected by the mean
difference from the float program (Nagel et al. 2019, section 4.2, the empirical form).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from edgecompile.compensation import compensated
from edgecompile.dataset import Sample
from edgecompile.finding import Finding
from edgecompile.layer_rows import groups_of
from edgecompile.program import CapturedProgram, QuantizedProgram
from edgecompile.progress import Progress
from edgecompile.quantize.adaptive_rounding import round_adaptive
from edgecompile.quantize.layer_walk import LayerStop, changeable_layers, walk_layers
from edgecompile.quantize.layers import QuantizedLayer, Weights
from edgecompile.quantize.positions import layer_positions
from edgecompile.target import QuantizationSettings

# What a step of adaptive rounding costs for a layer however small it is, in weights.
_STEP_OVERHEAD = 20_000
# Weights with longer rows are rounded one by one: the time grows with the cube of the length.
_LONGEST_ROW = 2048


def correct_weights(
    program: QuantizedProgram,
    in_float: CapturedProgram,
    samples: Sequence[Sample],
    settings: QuantizationSettings,
    progress: Progress,
) -> QuantizedProgram:
    """Return the program with better integers and biases; scales and zero points stay.

    Args:
        program: As converted.
        in_float: The program that it was made from.
        samples: Calibration data; all are held at once, some dozens are enough.
        settings: Say what is corrected.
        progress: Is told of each layer.
    """
    if settings.weight_rounding == "nearest" and not settings.bias_correction:
        return program
    layers = changeable_layers(program.exported)
    progress.start("correct weights", len(layers))
    limit = settings.weight_limit
    adaptive = _Adaptive(layers, settings, limit) if settings.weight_rounding == "adaptive" else None

    def change(stop: LayerStop) -> Weights:
        return _corrected(stop, settings, limit, adaptive)

    inputs = [sample.inputs for sample in samples]
    exported = walk_layers(program.exported, in_float.exported, inputs, change, progress)
    better = f", {adaptive.better} rounded better" if adaptive else ""
    progress.finish(f"{len(layers)} layers, {len(samples)} samples{better}")
    findings = adaptive.findings() if adaptive else ()
    return replace(program, exported=exported, findings=(*program.findings, *findings))


class _Adaptive:
    """Shares the time for adaptive rounding out over the layers, and counts how it went.

    Attributes:
        better: Layers with a better rounding than they began with.
    """

    def __init__(self, layers: Sequence[QuantizedLayer], settings: QuantizationSettings, limit: int) -> None:
        sizes = {layer.name: _size(layer) for layer in layers}
        seconds = settings.rounding_minutes * 60
        self._seconds = {name: seconds * size / sum(sizes.values()) for name, size in sizes.items()}
        self._steps, self._limit = settings.rounding_steps, limit
        self._unfinished = 0
        self.better = 0

    def rounded(self, stop: LayerStop, start: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Return the integers of a layer that begins with others and has this bias."""
        seconds = self._seconds[stop.layer.name]
        found = round_adaptive(stop, start, bias, limit=self._limit, steps=self._steps, seconds=seconds)
        self.better += found.loss < 1
        self._unfinished += found.steps < self._steps
        return found.integers

    def findings(self) -> Iterator[Finding]:
        """Yield a row if the time was up."""
        if self._unfinished:
            yield Finding(
                code="rounding-time-up",
                what="adaptive rounding",
                text=f"the time was up before step {self._steps} in {self._unfinished} of "
                f"{len(self._seconds)} layers: another run may round other weights up; raise "
                "`rounding_minutes`, or lower `rounding_steps`",
            )


def _size(layer: QuantizedLayer) -> int:
    """Return what a layer's steps cost beside other layers'."""
    assert layer.weights is not None
    return layer.weights.weight.numel() + _STEP_OVERHEAD


def _corrected(
    stop: LayerStop, settings: QuantizationSettings, limit: int, adaptive: _Adaptive | None
) -> Weights:
    weights = stop.layer.weights
    assert weights is not None
    integers = weights.weight
    is_compensated = settings.weight_rounding != "nearest" and integers[0].numel() <= _LONGEST_ROW
    moments = _Moments(stop, second=is_compensated)
    if moments.second is not None:
        scales = weights.scales.reshape(moments.groups, -1)
        rounded = round_compensated(moments.by_group(stop.weight), moments.second, scales, limit)
        integers = rounded.reshape(integers.shape).to(torch.int8)

    def bias() -> torch.Tensor | None:
        """Return the bias that goes with the integers."""
        if not settings.bias_correction:
            return weights.bias
        in_float = torch.zeros(len(integers)) if stop.bias is None else stop.bias
        corrected = moments.bias(integers, weights.scales, in_float.double())
        return weights.on_bias_grid(corrected, stop.layer.input_parameters[0].scale)

    if adaptive is not None:
        integers = adaptive.rounded(stop, integers, bias())
    return Weights(weight=integers, scales=weights.scales, bias=bias())


def round_compensated(
    weight: torch.Tensor, second: torch.Tensor, scales: torch.Tensor, limit: int
) -> torch.Tensor:
    """Round the rows of a weight, each so that its outputs change least; a weight that is 0 stays 0.

    Args:
        weight: The real weight by groups, (groups, rows, columns).
        second: The second moments of what the columns are multiplied with, (groups, columns, columns).
        scales: Of each row, (groups, rows).
        limit: The greatest absolute value of an integer.

    Returns:
        Integers as float32, (groups, rows, columns).
    """
    integers = torch.zeros_like(weight, dtype=torch.float32)
    is_zero = weight == 0

    def settle(column: int, wanted: torch.Tensor) -> torch.Tensor:
        rounded = (wanted / scales).round().clamp(-limit, limit)
        integers[:, :, column] = rounded.masked_fill(is_zero[:, :, column], 0.0)
        return integers[:, :, column] * scales

    compensated(weight, second, settle)
    return integers


class _Moments:
    """Moments, over samples and positions, of what a layer reads and should give.

    Attributes:
        groups: Of the layer's channels.
        length: Of a row of its weight.
        second: The second moments of what the columns of a row are multiplied with, (groups, length, length);
            None where they are not wanted.
    """

    def __init__(self, stop: LayerStop, *, second: bool) -> None:
        layer = stop.layer
        assert layer.weights is not None
        self.groups = groups_of(layer.compute)
        self.length = layer.weights.weight[0].numel()
        self._read: list[torch.Tensor] = []
        self._wanted: list[torch.Tensor] = []
        self.second = torch.zeros(self.groups, self.length, self.length) if second else None
        generator = torch.Generator().manual_seed(0)  # the same build gives the same artifact
        for value, wanted in zip(stop.inputs, stop.wanted, strict=True):
            read, given = layer_positions(layer, value, wanted, generator)
            self._read.append(read.mean(0))
            self._wanted.append(given.mean(0))
            if self.second is not None:
                columns = read.transpose(0, 1)  # (groups, positions, length)
                self.second += columns.transpose(1, 2) @ columns / len(read)

    def by_group(self, weight: torch.Tensor) -> torch.Tensor:
        """Return a weight's rows by group, (groups, rows, length)."""
        return weight.reshape(self.groups, -1, self.length)

    def bias(self, integers: torch.Tensor, scales: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Return the bias with which the outputs are right on average, (K,), float64.

        The shift is the median of the samples', and is trusted as far as they agree on it: what lies within
        its standard error is left out (James & Stein 1961, "Estimation with quadratic loss", positive part).

        Args:
            integers: The weight.
            scales: Of each row, (K,).
            bias: The float program's.
        """
        rows, read = self.by_group(integers.double()), torch.stack(self._read).double()
        given = torch.einsum("grl,sgl->sgr", rows, read).flatten(1) * scales.double()
        shifts = torch.stack(self._wanted).double() - given - bias  # (samples, K)
        shift = shifts.median(0).values
        doubt = shifts.var(0, correction=0) / len(shifts)
        return bias + shift * (1 - doubt / shift.square().clamp_min(1e-30)).clamp_min(0)
