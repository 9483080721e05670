"""How a range is chosen from a histogram of values: one pure function a method.

Every range contains zero, which int8 must hold exactly, and leaves neither the values' extremes nor zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from edgecompile.quantize.scales import power_of_two_above

Range = tuple[float, float]

_STEPS = 255  # between the ends of an int8 range
_SHARES = torch.linspace(1, 0.05, 96, dtype=torch.float64)  # of an end that is tried
_THRESHOLDS = torch.linspace(1, 1 / 128, 128, dtype=torch.float64)  # the same, for the entropy


@dataclass(frozen=True, kw_only=True, eq=False)
class Histogram:
    """How many values lie in each of equal parts of [low, high].

    Attributes:
        counts: (bins,), of two bins or more, not all zero. Not always integers: a histogram that grew was
            shared out anew.
        low: The least value.
        high: The greatest value.
    """

    counts: torch.Tensor
    low: float
    high: float

    @property
    def width(self) -> float:
        """The width of a bin; 0 where all values are one."""
        return (self.high - self.low) / len(self.counts)

    @property
    def middles(self) -> torch.Tensor:
        """The middle of each bin, (bins,), float64."""
        return self.low + self.width * (torch.arange(len(self.counts), dtype=torch.float64) + 0.5)

    @property
    def extremes(self) -> Range:
        """The range of all values and zero."""
        return min(self.low, 0.0), max(self.high, 0.0)


def with_values(histogram: Histogram, values: torch.Tensor, counts: torch.Tensor) -> Histogram:
    """Return a histogram with more values in it; its bins stay, and more of them are added where needed.

    Args:
        histogram: Of some width.
        values: More values, (N,); those far beyond it are taken for less far, at three times its extent.
        counts: What each counts, (N,).
    """
    width, bins = histogram.width, len(histogram.counts)
    places = ((values.double() - histogram.low) / width).floor().long().clamp(-bins, 2 * bins - 1)
    before, after = max(0, -int(places.min())), max(0, int(places.max()) + 1 - bins)
    grown = torch.nn.functional.pad(histogram.counts.double(), (before, after))
    grown.index_add_(0, places + before, counts.double())
    return Histogram(counts=grown, low=histogram.low - before * width, high=histogram.high + after * width)


def percentile_range(histogram: Histogram, percentile: float) -> Range:
    """Leave out the same share of the values at each end.

    Args:
        histogram: The values; within a bin they are taken to be spread evenly.
        percentile: The percentage of the values that are not above the range, 50 to 100; as many are not
            below it.
    """
    counts = histogram.counts.double()
    sums = counts.cumsum(0)

    def value_at(share: float) -> float:
        wanted = share * sums[-1]
        index = min(int(torch.searchsorted(sums, wanted)), len(sums) - 1)
        count = float(counts[index])
        inside = 1 - float(sums[index] - wanted) / count if count else 0.0
        return histogram.low + histogram.width * (index + inside)

    return min(value_at(1 - percentile / 100), 0.0), max(value_at(percentile / 100), 0.0)


def least_squares_range(histogram: Histogram, *, symmetric: bool, power_of_two: bool) -> Range:
    """Choose the range with the least expected squared error, over a grid of its two ends.

    A value inside is rounded to one of 256 levels, an error of step^2 / 12 on average; one outside is moved
    to the range's end. The trade is that of Banner et al. 2019, "Post training 4-bit quantization of
    convolutional networks for rapid-deployment", section 2, on the values instead of a model of them.

    Args:
        histogram: The values; all in a bin are taken for its middle.
        symmetric: The ends are one number with both signs.
        power_of_two: The step is rounded up to a power of two, and the range grows with it.
    """
    low, high = histogram.extremes
    if symmetric:
        highs = max(-low, high) * _SHARES  # (96,)
        lows = -highs
    else:
        lows, highs = low * _SHARES[:, None], high * _SHARES  # (96, 1), (96,)
    reached = _widened(lows, highs, symmetric=symmetric) if power_of_two else (lows, highs)
    error = _expected_squared_error(histogram, *reached)
    place = torch.unravel_index(error.argmin(), error.shape)
    least, greatest = (float(end.expand_as(error)[place]) for end in (lows, highs))
    return max(least, low), min(greatest, high)


def _widened(
    lows: torch.Tensor, highs: torch.Tensor, *, symmetric: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the ends that are reached where the step becomes a power of two."""
    size = power_of_two_above((highs - lows) / _STEPS) * _STEPS
    return (-size / 2, size / 2) if symmetric else (lows, lows + size)


def _expected_squared_error(histogram: Histogram, lows: torch.Tensor, highs: torch.Tensor) -> torch.Tensor:
    """Return the sum of the squared errors for each pair of ends, in the shape that they broadcast to."""
    step = (highs - lows) / _STEPS
    middles, counts = histogram.middles, histogram.counts.double()
    # With the sums of 1, x and x^2 up to each bin, the squared distance of all beyond an end is at hand.
    powers = torch.stack([counts, counts * middles, counts * middles**2])
    sums = torch.nn.functional.pad(powers.cumsum(1), (1, 0))  # (3, bins + 1)
    below = sums[:, torch.searchsorted(middles, lows)]
    above = sums[:, -1].reshape(3, *[1] * highs.dim()) - sums[:, torch.searchsorted(middles, highs)]
    inside = sums[0, -1] - below[0] - above[0]
    clipped = _squared_distance(below, lows) + _squared_distance(above, highs)
    return inside * step**2 / 12 + clipped


def _squared_distance(sums: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
    """Return the sum of (x - end)^2 from the sums of 1, x and x^2."""
    return sums[2] - 2 * end * sums[1] + end**2 * sums[0]


def entropy_range(histogram: Histogram, *, symmetric: bool) -> Range:
    """Choose the range whose 256 levels tell most of the distribution: the least KL divergence.

    Migacz 2017, "8-bit Inference with TensorRT": values beyond a threshold are moved to it (P); those inside
    are merged into levels, and each level is spread over its bins that are not empty (Q). The threshold is
    on the absolute value: an end of the range is a threshold or, unless `symmetric`, the extreme that is
    nearer to zero. A range is no narrower than 256 bins, below which there is nothing to merge.
    """
    low, high = histogram.extremes
    largest = max(-low, high)
    middles, counts = histogram.middles, _without_zeros(histogram)
    least, chosen = math.inf, (low, high)
    for threshold in (largest * _THRESHOLDS).tolist():
        ends = (-threshold, threshold) if symmetric else (max(low, -threshold), min(high, threshold))
        if ends[1] - ends[0] < (_STEPS + 1) * histogram.width:
            break
        divergence = _divergence(middles, counts, *ends)
        if divergence < least:
            least, chosen = divergence, ends
    return max(chosen[0], low), min(chosen[1], high)


def _without_zeros(histogram: Histogram) -> torch.Tensor:
    """Return the counts, (bins,), with those of the bin that holds zero no larger than its neighbours'.

    Every range holds zeros exactly. After a relu they are most values, and spread over a level they would be
    the whole divergence; NVIDIA's own calibrator leaves them out too.
    """
    counts = histogram.counts.to(torch.float64, copy=True)
    if histogram.low <= 0 <= histogram.high and histogram.width:
        place = min(int(-histogram.low / histogram.width), len(counts) - 1)
        beside = [counts[index] for index in (place - 1, place + 1) if 0 <= index < len(counts)]
        counts[place] = torch.stack([counts[place], max(beside)]).min()
    return counts


def _divergence(middles: torch.Tensor, counts: torch.Tensor, low: float, high: float) -> float:
    """Return KL(P || Q) in nats; a bin that Q leaves empty, but P does not, is given one value."""
    start, end = torch.searchsorted(middles, torch.tensor([low, high], dtype=torch.float64)).tolist()
    inside = counts[start:end]
    if not bool(inside.any()):
        return math.inf
    moved = inside.clone()
    moved[0] += counts[:start].sum()
    moved[-1] += counts[end:].sum()
    levels = ((middles[start:end] - low) / (high - low) * (_STEPS + 1)).long().clamp_(max=_STEPS)
    in_level = torch.bincount(levels, weights=inside)
    filled_bins = torch.bincount(levels, weights=(inside > 0).double())
    spread = torch.where(inside > 0, (in_level / filled_bins)[levels], 1.0)
    happens = moved > 0
    p, q = moved[happens], spread[happens]
    p, q = p / p.sum(), q / q.sum()
    return float(p @ (p / q).log())
