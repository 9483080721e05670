"""Every choice of a range against a slow, plain form of its definition, and what all of them keep to."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecompile.quantize.histogram import count_bins
from edgecompile.quantize.ranges import Histogram, entropy_range, least_squares_range, percentile_range

SHARES = [1 - 0.95 * index / 95 for index in range(96)]
THRESHOLDS = [(128 - index) / 128 for index in range(128)]


def histogram_of(values, bins=2048):
    low, high = values.min().item(), values.max().item()
    return Histogram(counts=count_bins(values, bins, low, high), low=low, high=high)


def normal(count, seed, spread=1.0, middle=0.0, rectified=False):
    values = torch.randn(count, generator=torch.Generator().manual_seed(seed)) * spread + middle
    return values.relu() if rectified else values


# No share of 20,011 or 20,012 values that is asked for is a whole number, where rounding would decide.
VALUES = {
    "two-sided": normal(20_011, 0),
    "one-sided": normal(20_011, 1, rectified=True),
    "negative": -normal(20_011, 2, rectified=True),
    "lopsided": torch.nn.functional.silu(normal(20_011, 3, spread=3)),
    "far from zero": normal(20_011, 4, spread=0.1, middle=5),
    "with an outlier": torch.cat([normal(20_011, 5), torch.tensor([60.0])]),
}


@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.9, 99.99, 100.0])
@pytest.mark.parametrize("name", VALUES)
def test_percentiles_are_numpys(name, percentile):
    values = VALUES[name]
    histogram = histogram_of(values)
    shares = [100 - percentile, percentile]
    wanted = np.percentile(values.double().numpy(), shares, method="inverted_cdf")
    found = percentile_range(histogram, percentile)
    for ours, theirs in zip(found, (min(wanted[0], 0), max(wanted[1], 0)), strict=True):
        assert abs(ours - theirs) <= histogram.width * 1.001


def test_the_whole_percentile_is_the_extremes():
    assert percentile_range(histogram_of(torch.linspace(-3, 2, 999)), 100) == (-3, 2)


def slow_error(middles, counts, low, high, symmetric, power_of_two):
    step = (high - low) / 255
    if power_of_two:
        step = 2 ** math.ceil(math.log2(step))
        low, high = (-127.5 * step, 127.5 * step) if symmetric else (low, low + 255 * step)
    error = 0.0
    for middle, count in zip(middles, counts, strict=True):
        if middle < low:
            error += count * (low - middle) ** 2
        elif middle >= high:
            error += count * (middle - high) ** 2
        else:
            error += count * step**2 / 12
    return error


@pytest.mark.parametrize("power_of_two", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", VALUES)
def test_no_range_of_the_grid_has_a_smaller_squared_error(name, symmetric, power_of_two):
    histogram = histogram_of(VALUES[name], bins=32)
    middles, counts = histogram.middles.tolist(), histogram.counts.tolist()
    low, high = histogram.extremes
    if symmetric:
        largest = max(-low, high)
        candidates = [(-largest * share, largest * share) for share in SHARES]
    else:
        candidates = [(low * left, high * right) for left in SHARES for right in SHARES]
    errors = {
        (max(least, low), min(greatest, high)): slow_error(
            middles, counts, least, greatest, symmetric, power_of_two
        )
        for least, greatest in candidates
    }
    found = least_squares_range(histogram, symmetric=symmetric, power_of_two=power_of_two)
    nearest = min(errors, key=lambda ends: math.dist(ends, found))
    assert math.dist(nearest, found) < 1e-9
    assert errors[nearest] <= min(errors.values()) * (1 + 1e-9)


def slow_divergence(middles, counts, low, high):
    inside = [index for index, middle in enumerate(middles) if low <= middle < high]
    p = {index: counts[index] for index in inside}
    p[inside[0]] += sum(counts[: inside[0]])
    p[inside[-1]] += sum(counts[inside[-1] + 1 :])
    level = {index: min(int((middles[index] - low) / (high - low) * 256), 255) for index in inside}
    q = {}
    for index in inside:
        same = [other for other in inside if level[other] == level[index] and counts[other] > 0]
        q[index] = sum(counts[other] for other in same) / len(same) if counts[index] > 0 else 1.0
    happens = [index for index in inside if p[index] > 0]
    whole_p, whole_q = sum(p[index] for index in happens), sum(q[index] for index in happens)
    return sum(p[index] / whole_p * math.log(p[index] / whole_p * whole_q / q[index]) for index in happens)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", VALUES)
def test_no_threshold_has_a_smaller_divergence(name, symmetric):
    histogram = histogram_of(VALUES[name], bins=512)
    middles, counts = histogram.middles.tolist(), histogram.counts.tolist()
    low, high = histogram.extremes
    if histogram.low <= 0 <= histogram.high:
        zero = min(int(-histogram.low / histogram.width), 511)
        counts[zero] = min(counts[zero], max(counts[max(zero - 1, 0) : zero] + counts[zero + 1 : zero + 2]))
    divergences = {}
    for share in THRESHOLDS:
        limit = max(-low, high) * share
        ends = (-limit, limit) if symmetric else (max(low, -limit), min(high, limit))
        if ends[1] - ends[0] >= 256 * histogram.width and any(
            count for middle, count in zip(middles, counts, strict=True) if ends[0] <= middle < ends[1]
        ):
            divergences[max(ends[0], low), min(ends[1], high)] = slow_divergence(middles, counts, *ends)
    found = entropy_range(histogram, symmetric=symmetric)
    nearest = min(divergences, key=lambda ends: math.dist(ends, found))
    assert math.dist(nearest, found) < 1e-9
    assert divergences[nearest] <= min(divergences.values()) + 1e-12


@pytest.mark.parametrize("symmetric", [False, True])
def test_one_outlier_does_not_widen_the_choice(symmetric):
    histogram = histogram_of(torch.cat([normal(200_000, 0), torch.tensor([60.0])]))
    assert entropy_range(histogram, symmetric=symmetric)[1] < 10
    assert percentile_range(histogram, 99.99)[1] < 5
    assert least_squares_range(histogram, symmetric=symmetric, power_of_two=False)[1] < 50


def test_zeros_after_a_relu_do_not_narrow_the_choice():
    low, high = entropy_range(histogram_of(normal(10**6, 0, rectified=True)), symmetric=False)
    assert low == 0 and high > 3.5


CHOICES = {
    "percentile": lambda histogram, symmetric: percentile_range(histogram, 99.0),
    "mse": lambda histogram, symmetric: least_squares_range(
        histogram, symmetric=symmetric, power_of_two=False
    ),
    "mse, powers of two": lambda histogram, symmetric: least_squares_range(
        histogram, symmetric=symmetric, power_of_two=True
    ),
    "entropy": lambda histogram, symmetric: entropy_range(histogram, symmetric=symmetric),
}


@settings(max_examples=100)
@given(
    name=st.sampled_from(list(CHOICES)),
    counts=st.lists(st.sampled_from([0.0, 0.5, 1.0, 7.0, 1e6]), min_size=2, max_size=600).filter(any),
    low=st.floats(-(2**20), 2**20, width=32),
    size=st.sampled_from([0.0, 2**-20, 1.0, 2**20]),
    symmetric=st.booleans(),
)
def test_every_range_is_finite_and_holds_zero_and_leaves_no_extreme(name, counts, low, size, symmetric):
    histogram = Histogram(counts=torch.tensor(counts), low=low, high=low + size)
    found = CHOICES[name](histogram, symmetric)
    assert min(low, 0) <= found[0] <= 0 <= found[1] <= max(low + size, 0)
    assert found != (0, 0) or histogram.extremes == (0, 0) or name == "percentile"


@pytest.mark.parametrize("value", [0.0, 2.0, -3.0])
@pytest.mark.parametrize("name", CHOICES)
def test_one_value_is_kept(name, value):
    histogram = Histogram(counts=torch.eye(1, 16)[0] * 9, low=value, high=value)
    assert CHOICES[name](histogram, False) == (min(value, 0), max(value, 0))
