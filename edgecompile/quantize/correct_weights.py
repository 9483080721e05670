"""After calibration: weights rounded so that their errors cancel, and biases that take up what is left.

Rounded one by one, the weights of a row give a sum of errors on every input. Here each error is taken up by
the weights of the row that are not rounded yet, in the proportion that changes the row's output least on the
calibration data (Frantar et al. 2023, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", after Hassibi & Stork 1993, "Optimal Brain Surgeon"). The bias is then corrected by the mean
difference from the float program (Nagel et al. 2019, section 4.2, the empirical form).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.nn import functional

from edgecompile.dataset import Sample
from edgecompile.program import CapturedProgram, QuantizedProgram
from edgecompile.progress import Progress
from edgecompile.quantize.layer_walk import LayerStop, changeable_layers, walk_layers
from edgecompile.quantize.layers import QuantizedLayer, Weights
from edgecompile.quantize.reference import dequantize_tensor
from edgecompile.target import QuantizationSettings

# Positions of a sample's output that are used, drawn at random: neighbours say much the same.
_POSITIONS = 400
# Of the mean square of an input: what keeps inputs that the samples hardly use from being trusted.
_DAMPING = 0.01
# Columns of a weight that are rounded before the others take up their errors.
_BLOCK = 128
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
    weighted = len(changeable_layers(program.exported))
    progress.start("correct weights", weighted)
    limit = 2 ** (settings.weight_bits - 1) - 1

    def change(stop: LayerStop) -> Weights:
        return _corrected(stop, settings, limit)

    inputs = [sample.inputs for sample in samples]
    exported = walk_layers(program.exported, in_float.exported, inputs, change, progress)
    progress.finish(f"{weighted} layers, {len(samples)} samples")
    return replace(program, exported=exported)


def _corrected(stop: LayerStop, settings: QuantizationSettings, limit: int) -> Weights:
    weights = stop.layer.weights
    assert weights is not None
    integers = weights.weight
    is_compensated = settings.weight_rounding == "compensated" and integers[0].numel() <= _LONGEST_ROW
    moments = _Moments(stop, second=is_compensated)
    if moments.second is not None:
        scales = weights.scales.reshape(moments.groups, -1)
        rounded = round_compensated(moments.by_group(stop.weight), moments.second, scales, limit)
        integers = rounded.reshape(integers.shape).to(torch.int8)
    bias = weights.bias
    if settings.bias_correction:
        in_float = torch.zeros(len(integers)) if stop.bias is None else stop.bias
        bias = weights.on_bias_grid(
            moments.bias(integers, weights.scales, in_float.double()), stop.layer.input_parameters[0].scale
        )
    return Weights(weight=integers, scales=weights.scales, bias=bias)


def round_compensated(
    weight: torch.Tensor, second: torch.Tensor, scales: torch.Tensor, limit: int
) -> torch.Tensor:
    """Round the rows of a weight, each so that its outputs change least.

    Args:
        weight: The real weight by groups, (groups, rows, columns).
        second: The second moments of what the columns are multiplied with, (groups, columns, columns).
        scales: Of each row, (groups, rows).
        limit: The greatest absolute value of an integer.

    Returns:
        Integers as float32, (groups, rows, columns).
    """
    power = second.double().diagonal(dim1=1, dim2=2)
    damping = _DAMPING * power.mean(1) + 1e-12
    damped = second.double() + damping[:, None, None] * torch.eye(second.shape[1], dtype=torch.float64)
    # What matters most is rounded first, while there is most left to take up its error.
    order = power.mean(0).argsort(descending=True)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped[:, order][:, :, order]))
    factor = torch.linalg.cholesky(inverse, upper=True).float()
    real = weight[:, :, order].float().clone()
    rounded = torch.empty_like(real)
    for start in range(0, real.shape[2], _BLOCK):
        block = slice(start, start + _BLOCK)
        own, own_factor = real[:, :, block], factor[:, block, block]
        errors = torch.empty_like(own)
        for column in range(own.shape[2]):
            wanted = own[:, :, column]
            integers = (wanted / scales).round().clamp(-limit, limit)
            rounded[:, :, start + column] = integers
            error = (wanted - integers * scales) / own_factor[:, column, column, None]
            own[:, :, column + 1 :] -= error[:, :, None] * own_factor[:, None, column, column + 1 :]
            errors[:, :, column] = error
        real[:, :, start + _BLOCK :] -= errors @ factor[:, block, start + _BLOCK :]
    return rounded[:, :, order.argsort()]


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
        self.groups = _argument(layer, 6, 1) if layer.kind != "linear" else 1
        self.length = layer.weights.weight[0].numel()
        self._read: list[torch.Tensor] = []
        self._wanted: list[torch.Tensor] = []
        self.second = torch.zeros(self.groups, self.length, self.length) if second else None
        generator = torch.Generator().manual_seed(0)  # the same build gives the same artifact
        for value, wanted in zip(stop.inputs, stop.wanted, strict=True):
            read, given = _positions(layer, value, wanted, generator)
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


def _positions(
    layer: QuantizedLayer, value: torch.Tensor, wanted: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what a layer reads at some positions of its output, and what it should give there.

    Returns:
        (positions, groups, length) and (positions, K), real values.
    """
    real = dequantize_tensor(value, layer.input_parameters[0])
    if layer.kind == "linear":
        read, given = real.reshape(-1, 1, real.shape[-1]), wanted.reshape(-1, wanted.shape[-1])
        kept = _drawn(len(read), generator)
        return read[kept], given[kept]
    assert layer.weights is not None
    if layer.padding is not None:
        real = functional.pad(real, layer.padding.args[1])  # type: ignore[arg-type]
    spatial = real.dim() - 2
    if spatial == 1:  # `unfold` knows pictures only
        real, wanted = real.unsqueeze(2), wanted.unsqueeze(2)
    kernel = (*[1] * (2 - spatial), *layer.weights.weight.shape[2:])
    stride, padding, dilation = (
        (*[neutral] * (2 - spatial), *_argument(layer, index, [neutral] * spatial))
        for index, neutral in ((3, 1), (4, 0), (5, 1))
    )
    if kernel == stride == (1, 1) and padding == (0, 0):
        columns = real.flatten(2)  # (N, C * taps, positions)
    else:
        columns = functional.unfold(real, kernel, dilation, padding, stride)
    groups = _argument(layer, 6, 1)
    read = columns.movedim(1, 2).reshape(-1, groups, columns.shape[1] // groups)
    given = wanted.flatten(2).movedim(1, 2).flatten(0, 1)
    kept = _drawn(len(read), generator)
    return read[kept], given[kept]


def _argument(layer: QuantizedLayer, index: int, otherwise: Any) -> Any:
    """Return an argument of a convolution, or its default where it is left out."""
    arguments = layer.compute.args
    return arguments[index] if len(arguments) > index else otherwise


def _drawn(count: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randperm(count, generator=generator)[:_POSITIONS]
