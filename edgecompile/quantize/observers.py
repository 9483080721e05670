"""What measures the ranges: the observer of each setting.

Those that choose from a histogram differ in the choice alone. What they have counted is the same, so that one
calibration serves all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torchao.quantization.pt2e.observer import MinMaxObserver, MovingAverageMinMaxObserver

from edgecompile.quantize.histogram import ActivationHistogram
from edgecompile.quantize.ranges import (
    Histogram,
    Range,
    entropy_range,
    least_squares_range,
    percentile_range,
    with_values,
)
from edgecompile.quantize.scales import LEAST_SCALE, Scales
from edgecompile.quantize.weight_observers import WeightChannelRanges, WeightRange
from edgecompile.target import QuantizationSettings


class ActivationExtremes(Scales, MinMaxObserver):  # type: ignore[misc]  # torchao is not typed
    """The least and greatest value of all samples."""


class ActivationAverage(Scales, MovingAverageMinMaxObserver):  # type: ignore[misc]
    """The moving average of the samples' least and greatest values: a sample more weighs one in a hundred.

    Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference", section 3.1.
    """


class ActivationBounds(ActivationExtremes):
    """An activation whose scale and zero point are given: the kernels of a sigmoid have no others.

    What it sees it notes all the same, for the report.
    """

    def __init__(self, *, scale: float, zero_point: int, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.given = torch.tensor([scale]), torch.tensor([zero_point])

    def calculate_qparams(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the scale and zero point, (1,) each."""
        return self.given


class ActivationRange(ActivationHistogram):
    """A histogram with another choice of the range.

    Attributes:
        choose: Gives the range for a histogram.
        beyond: Values that one more sample may have, (N,), and what each counts; None for none.
    """

    beyond: tuple[torch.Tensor, torch.Tensor] | None = None

    def __init__(self, *, choose: Callable[[Histogram], Range], **keywords: Any) -> None:
        super().__init__(**keywords)
        self.choose = choose

    def _non_linear_param_search(self) -> tuple[torch.Tensor, torch.Tensor]:
        seen = Histogram(counts=self.histogram, low=self.min_val.item(), high=self.max_val.item())
        if self.beyond is not None and seen.width > 0:
            seen = with_values(seen, *self.beyond)
        low, high = self.choose(seen)
        return torch.tensor(low), torch.tensor(high)


def activation_observer(settings: QuantizationSettings) -> Any:
    """Return what makes the observers of activations, as a `QuantizationSpec` takes it."""
    symmetric = settings.activation_symmetry == "symmetric"
    power_of_two = settings.power_of_two_scales
    observers: dict[str, Any] = {
        "min-max": ActivationExtremes,
        "moving-average": ActivationAverage,
        "histogram": ActivationHistogram,
    }
    choices: dict[str, Callable[[Histogram], Range]] = {
        "percentile": partial(percentile_range, percentile=settings.activation_percentile),
        "mse": partial(least_squares_range, symmetric=symmetric, power_of_two=power_of_two),
        "entropy": partial(entropy_range, symmetric=symmetric),
    }
    name = settings.activation_observer
    if name in choices:
        return ActivationRange.with_args(eps=LEAST_SCALE, power_of_two=power_of_two, choose=choices[name])
    return observers[name].with_args(eps=LEAST_SCALE, power_of_two=power_of_two)


def weight_observer(settings: QuantizationSettings) -> Any:
    """Return what makes the observers of weights."""
    observer = WeightChannelRanges if settings.weight_granularity == "per-channel" else WeightRange
    least_squares = settings.weight_observer == "mse"
    return observer.with_args(
        eps=LEAST_SCALE, power_of_two=settings.power_of_two_scales, least_squares=least_squares
    )
