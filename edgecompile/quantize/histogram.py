"""Counts an activation's values: torchao's histogram and its choice of a range, found faster."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from ctypes import c_float

import torch
from torchao.quantization.pt2e.observer import HistogramObserver

from edgecompile.quantize.scales import Scales

# So many values at a time stay in a core's cache through the steps that find their bins.
_CHUNK = 1 << 17

# Between them no step of `count_bins` leaves float32's normal numbers.
_SMALLEST_RANGE, _LARGEST_RANGE = 2.0**-100, 2.0**100


class ActivationHistogram(Scales, HistogramObserver):  # type: ignore[misc]  # torchao is not typed
    """torchao's histogram of an activation and its choice of the range, to the bit, found faster.

    Half of a calibration would be `torch.histc`; `count_bins` gives the same counts.

    Attributes:
        weights: What each value counts, in a shape that broadcasts to the activation; None for 1.
    """

    weights: torch.Tensor | None = None
    bins: int
    upsample_rate: int
    histogram: torch.Tensor
    min_val: torch.Tensor
    max_val: torch.Tensor

    def forward(self, x_orig: torch.Tensor) -> torch.Tensor:
        """Count the values of one sample, any shape; returns them as they are."""
        if x_orig.numel() == 0:
            return x_orig
        values = x_orig.detach()
        least, greatest = torch.aminmax(values)
        low, high = torch.min(least, self.min_val).item(), torch.max(greatest, self.max_val).item()
        if not (low > -torch.inf and high < torch.inf):
            # Infinite, or no numbers: torchao would ignore them or fail; here the bounds tell.
            self.min_val, self.max_val = torch.tensor(low), torch.tensor(high)
            return x_orig
        if not _SMALLEST_RANGE < high - low < _LARGEST_RANGE:
            # Constant, tiny or huge: torchao has a rule for each.
            result: torch.Tensor = super().forward(x_orig)
            return result
        counts = count_bins(values, self.bins, low, high, self.weights)
        if low == self.min_val.item() and high == self.max_val.item():
            self.histogram += counts
            return x_orig
        least, greatest = torch.tensor(low), torch.tensor(high)
        if self.min_val.isfinite():
            counts = self._combine_histograms(
                self.histogram, self.min_val, self.max_val, counts, least, greatest
            )
        self.histogram, self.min_val, self.max_val = counts, least, greatest
        return x_orig

    def _upscale_histogram(
        self,
        histogram: torch.Tensor,
        orig_min: torch.Tensor,
        orig_max: torch.Tensor,
        update_min: torch.Tensor,
        update_max: torch.Tensor,
    ) -> torch.Tensor:
        """Count a histogram's values in wider bounds: in small parts, each where its middle lies.

        torchao seeks each of the many middles between the few boundaries; here, as both ascend, the
        boundaries are sought between the middles.
        """
        parts = self.bins * self.upsample_rate
        middles = torch.linspace(orig_min, orig_max, parts + 1)[:-1] + 0.5 * ((orig_max - orig_min) / parts)
        boundaries = torch.linspace(update_min, update_max, self.bins + 1)
        if not _ascends(middles) or not _ascends(boundaries):
            # A small range far from zero is coarser than the parts.
            arguments = (histogram, orig_min, orig_max, update_min, update_max)
            result: torch.Tensor = super()._upscale_histogram(*arguments)
            return result
        # What lies below the first boundary, or above the last, belongs to the bin beside it.
        ends = torch.searchsorted(middles, boundaries[1:-1])
        sizes = torch.diff(ends, prepend=torch.tensor([0]), append=torch.tensor([parts]))
        positions = torch.repeat_interleave(torch.arange(self.bins), sizes, output_size=parts)
        shares = (histogram / self.upsample_rate).repeat_interleave(self.upsample_rate)
        return torch.bincount(positions, weights=shares, minlength=self.bins)

    def _non_linear_param_search(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Cut ever more values off the ends of the histogram while the quantization error falls.

        torchao's steps, but for how a share of the values is found: it walks there bin by bin.
        """
        total = self.histogram.sum().item()
        sums = self.histogram.cumsum(0).tolist()  # ascends
        alpha, beta, start, end, least = 0.0, 1.0, 0, self.bins - 1, math.inf
        while alpha < beta:
            next_alpha, next_beta, next_start, next_end = alpha + 1e-5, beta - 1e-5, start, end
            # torchao compares in float32.
            left = bisect_left(sums, c_float(next_alpha * total).value, start, end)
            right = bisect_right(sums, c_float(next_beta * total).value, start + 1, end + 1) - 1
            if left - start > end - right:
                alpha, next_start = next_alpha, left
            else:
                beta, next_end = next_beta, right
            if (next_start, next_end) == (start, end):
                continue
            error = self._compute_quantization_error(next_start, next_end)
            if error > least:
                break
            least, start, end = error, next_start, next_end
        width = (self.max_val - self.min_val) / self.bins
        return self.min_val + width * start, self.min_val + width * (end + 1)


def _ascends(values: torch.Tensor) -> bool:
    return bool((values[1:] >= values[:-1]).all())


def count_bins(
    values: torch.Tensor, bins: int, low: float, high: float, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Return how many float32 values lie in each of `bins` equal parts of [low, high], as float32.

    The same as `torch.histc(values, bins, low, high)`, which searches value by value. `bins` is a power of
    two, so that dividing by a part's width is to the bit what `histc` does: times `bins`, then divided by
    the range. With weights, each value counts as much as its own, in a shape that broadcasts to the values'.
    """
    width = c_float(high - low).value / bins
    if weights is not None:
        positions = (values - low).div_(width).to(torch.int32).flatten()
        sums = torch.bincount(positions, weights.expand_as(values).flatten().double(), minlength=bins + 1)
        sums[bins - 1] += sums[bins]
        return sums[:bins].to(torch.float32)
    counts = torch.zeros(bins + 1, dtype=torch.int64)
    for chunk in torch.split(values.flatten(), _CHUNK):
        positions = (chunk - low).div_(width).to(torch.int32)
        counts += torch.bincount(positions, minlength=bins + 1)
    counts[bins - 1] += counts[bins]  # the last part includes its upper end
    return counts[:bins].to(torch.float32)
