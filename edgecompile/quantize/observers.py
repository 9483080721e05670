"""What measures the ranges: torchao's observers, which give the same ranges in a third of the time."""

from __future__ import annotations

import functools

import torch
from torchao.quantization.pt2e.observer import (
    HistogramObserver,
    MinMaxObserver,
    PerChannelMinMaxObserver,
)

# So many values at a time stay in a core's cache through the steps that find their bins.
_CHUNK = 1 << 16
# Neighbours are counted apart: after a relu most are zero, and each count would wait for the one before.
_LANES = 2


class ActivationHistogram(HistogramObserver):  # type: ignore[misc]  # torchao is not typed
    """torchao's histogram of an activation, but for how the values are counted.

    Half of a calibration is `torch.histc`; `count_bins` gives the same counts. The bounds of the histogram
    grow with the samples as before, and the range is chosen from it as before.
    """

    bins: int
    histogram: torch.Tensor
    min_val: torch.Tensor
    max_val: torch.Tensor

    def forward(self, x_orig: torch.Tensor) -> torch.Tensor:
        """Count the values of one sample, any shape; returns them as they are."""
        if x_orig.numel() == 0:
            return x_orig
        values = x_orig.detach()
        low, high = torch.aminmax(values)
        low, high = torch.min(low, self.min_val), torch.max(high, self.max_val)
        if not low < high or not torch.isfinite((high - low) * self.bins):
            if not (low > -torch.inf and high < torch.inf):
                # Infinite, or no numbers: torchao would ignore them or fail; here the bounds tell.
                self.min_val, self.max_val = low, high
                return x_orig
            # Constant or huge: torchao has a rule for each.
            result: torch.Tensor = super().forward(x_orig)
            return result
        counts = count_bins(values, self.bins, low, high)
        if torch.isfinite(self.min_val):
            counts = self._combine_histograms(self.histogram, self.min_val, self.max_val, counts, low, high)
        self.histogram, self.min_val, self.max_val = counts, low, high
        return x_orig


class WeightRange(MinMaxObserver):  # type: ignore[misc]
    """torchao's range of a weight with one scale; a weight does not change, so it is measured once."""

    min_val: torch.Tensor

    def forward(self, x_orig: torch.Tensor) -> torch.Tensor:
        """Measure a weight when it is seen first."""
        if not torch.isfinite(self.min_val):
            super().forward(x_orig)
        return x_orig


class WeightChannelRanges(PerChannelMinMaxObserver):  # type: ignore[misc]
    """torchao's ranges of a weight with a scale for each channel, measured once."""

    min_val: torch.Tensor

    def forward(self, x_orig: torch.Tensor) -> torch.Tensor:
        """Measure a weight when it is seen first."""
        if not self.min_val.numel():
            super().forward(x_orig)
        return x_orig


def count_bins(values: torch.Tensor, bins: int, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """Return how many float32 values lie in each of `bins` equal parts of [low, high], as float32.

    The same as `torch.histc(values, bins, low, high)`, which searches value by value.
    """
    size = bins + 1
    counts = torch.zeros(_LANES * size, dtype=torch.int64)
    lanes = _lanes(size)
    for chunk in torch.split(values.flatten(), _CHUNK):
        positions = (chunk - low).mul_(bins).div_(high - low).to(torch.int32).add_(lanes[: len(chunk)])
        counts += torch.bincount(positions, minlength=_LANES * size)
    counts = counts.view(_LANES, size).sum(0)
    counts[bins - 1] += counts[bins]  # the last part includes its upper end
    return counts[:bins].to(torch.float32)


@functools.cache
def _lanes(size: int) -> torch.Tensor:
    return torch.arange(_CHUNK, dtype=torch.int32) % _LANES * size
