"""The observers: torchao's own ranges, to the bit, where they are torchao's; the scheme; the weights."""

import dataclasses
import math
from typing import get_args, get_type_hints

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quantized_net import SETTINGS
from torchao.quantization.pt2e.observer import HistogramObserver, MinMaxObserver, PerChannelMinMaxObserver

from edgecompile.quantize.histogram import ActivationHistogram, count_bins
from edgecompile.quantize.observers import activation_observer, weight_observer
from edgecompile.quantize.scales import power_of_two_above
from edgecompile.quantize.weight_observers import WeightChannelRanges, WeightRange
from edgecompile.target import QuantizationSettings

SPEC = {"dtype": torch.int8, "quant_min": -128, "quant_max": 127, "eps": 2**-12}


@settings(max_examples=100)
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(1, 70_000),
    spread=st.floats(2**-20, 2**20),
    middle=st.floats(-(2**20), 2**20),
    rectified=st.booleans(),
)
def test_histogram_counts_as_histc(seed, count, spread, middle, rectified):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(count, generator=generator) * spread + middle
    values = values.relu() if rectified else values
    low = values.min().item()
    high = (values.max() + spread * torch.rand((), generator=generator)).item()
    if low < high:
        assert torch.equal(count_bins(values, 2048, low, high), torch.histc(values, 2048, min=low, max=high))


SAMPLES = {
    "growing": [torch.randn(500) * scale for scale in (1, 3, 2, 9)],
    "one value first": [torch.full((9,), 2.0), torch.randn(500), torch.randn(500) * 4],
    "zeros only": [torch.zeros(8), torch.zeros(8)],
    "empty": [torch.randn(500), torch.empty(0), torch.randn(500)],
    "steady": [torch.linspace(-1, 3, 900)] * 3,
}


@pytest.mark.filterwarnings("ignore:.*TF32")
@pytest.mark.parametrize("samples", SAMPLES.values(), ids=SAMPLES)
def test_activations_get_the_same_range(samples):
    own = ActivationHistogram(qscheme=torch.per_tensor_affine, **SPEC)
    stock = HistogramObserver(qscheme=torch.per_tensor_affine, **SPEC)
    for sample in samples:
        assert own(sample) is sample
        stock(sample)
        assert torch.equal(own.histogram, stock.histogram)
    for ours, theirs in zip(own.calculate_qparams(), stock.calculate_qparams(), strict=True):
        assert torch.equal(ours, theirs)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32),
    growth=st.lists(st.floats(0.3, 3), min_size=1, max_size=5),
    middle=st.sampled_from([0.0, -0.5, 3.0, 40.0, 1e3, 1e6]),
    rectified=st.booleans(),
    tail=st.integers(1, 5),
)
def test_any_activations_get_the_same_range(seed, growth, middle, rectified, tail):
    generator = torch.Generator().manual_seed(seed)
    own = ActivationHistogram(qscheme=torch.per_tensor_affine, **SPEC)
    stock = HistogramObserver(qscheme=torch.per_tensor_affine, **SPEC)
    for scale in growth:
        values = torch.randn(3000, generator=generator) ** tail * scale + middle
        values = values.relu() if rectified else values
        own(values)
        stock(values)
        assert torch.equal(own.histogram, stock.histogram)
        assert torch.equal(own.min_val, stock.min_val)
        assert torch.equal(own.max_val, stock.max_val)
    for ours, theirs in zip(own.calculate_qparams(), stock.calculate_qparams(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("wrong", [float("inf"), float("-inf"), float("nan")])
def test_what_is_not_finite_stays_in_the_bounds(wrong):
    own = ActivationHistogram(qscheme=torch.per_tensor_affine, **SPEC)
    for sample in ([1.0, 2.0], [wrong, 3.0], [4.0, 5.0]):
        own(torch.tensor(sample))
    assert not torch.isfinite(torch.stack([own.min_val, own.max_val])).all()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (WeightRange(qscheme=torch.per_tensor_symmetric, **SPEC), MinMaxObserver),
        (
            WeightChannelRanges(qscheme=torch.per_channel_symmetric, ch_axis=0, **SPEC),
            PerChannelMinMaxObserver,
        ),
    ],
)
def test_weights_are_measured_once(ours, theirs):
    weight = torch.randn(4, 3)
    stock = theirs(qscheme=ours.qscheme, **SPEC)
    for _ in range(2):
        assert ours(weight) is weight
        stock(weight)
    assert all(
        torch.equal(one, other)
        for one, other in zip(ours.calculate_qparams(), stock.calculate_qparams(), strict=True)
    )
    ours(weight * 100)
    assert torch.equal(ours.min_val, stock.min_val)


OBSERVERS = get_args(get_type_hints(QuantizationSettings)["activation_observer"])


def activation(name, symmetry="affine", **settings):
    chosen = dataclasses.replace(
        SETTINGS,
        activation_observer=name,
        activation_symmetry=symmetry,
        activation_percentile=99.0,
        **settings,
    )
    qscheme = torch.per_tensor_affine if symmetry == "affine" else torch.per_tensor_symmetric
    return activation_observer(chosen)(dtype=torch.int8, quant_min=-128, quant_max=127, qscheme=qscheme)


def weight(name, granularity="per-channel", bits=8, **settings):
    chosen = dataclasses.replace(SETTINGS, weight_observer=name, weight_granularity=granularity, **settings)
    limit = 2 ** (bits - 1) - 1
    channels = granularity == "per-channel"
    qscheme = torch.per_channel_symmetric if channels else torch.per_tensor_symmetric
    return weight_observer(chosen)(dtype=torch.int8, quant_min=-limit, quant_max=limit, qscheme=qscheme)


def measured(observer, *samples):
    for sample in samples:
        assert observer(sample) is sample
    return observer.calculate_qparams()


@settings(max_examples=60)
@given(
    name=st.sampled_from(OBSERVERS),
    symmetry=st.sampled_from(["affine", "symmetric"]),
    power_of_two=st.booleans(),
    spreads=st.lists(st.floats(2**-6, 2**6), min_size=1, max_size=3),
    middle=st.sampled_from([0.0, 3.0, -40.0]),
    rectified=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_every_scheme_holds_with_every_observer(
    name, symmetry, power_of_two, spreads, middle, rectified, seed
):
    generator = torch.Generator().manual_seed(seed)
    samples = [torch.randn(200, generator=generator) * spread + middle for spread in spreads]
    samples = [sample.relu() for sample in samples] if rectified else samples
    scale, zero_point = measured(activation(name, symmetry, power_of_two_scales=power_of_two), *samples)
    assert math.isfinite(scale) and scale >= 2**-12 and -128 <= zero_point <= 127
    assert symmetry == "affine" or zero_point == 0
    assert not power_of_two or math.frexp(scale)[0] == 0.5
    if symmetry == "affine":
        values = torch.cat(samples)
        low, high = min(values.min().item(), 0), max(values.max().item(), 0)
        largest = max((high - low) / 255, 2**-12) * (1 + 1e-5)
        assert scale <= (2 * largest if power_of_two else largest)
        # The range reaches as far as the values do, but for the step that rounding takes.
        assert (-128 - zero_point) * scale >= low - scale
        assert power_of_two or scale == 2**-12 or (127 - zero_point) * scale <= high + scale


def test_a_power_of_two_is_rounded_up_and_the_same_values_fit():
    values = torch.cat([torch.linspace(-0.3, 2.1, 999), torch.zeros(1)])
    scale, zero_point = measured(activation("min-max", power_of_two_scales=True), values)
    assert (scale, zero_point) == (2**-6, -128 + 19)  # 2.4 / 255 is between 2^-7 and 2^-6
    assert (127 - zero_point) * scale >= 2.1
    scale, zero_point = measured(activation("min-max", "symmetric", power_of_two_scales=True), values)
    assert (scale, zero_point) == (2**-5, 0)
    scale, _ = measured(weight("min-max", power_of_two_scales=True), torch.tensor([[0.5, -1.0], [0.01, 0.0]]))
    assert scale.tolist() == [2**-6, 2**-12]


@given(st.floats(2**-120, 2**120, width=32))
def test_powers_of_two_are_the_least_that_are_large_enough(value):
    found = power_of_two_above(torch.tensor([value])).item()
    assert math.frexp(found)[0] == 0.5 and found / 2 < value <= found


def test_the_moving_average_starts_with_the_first_sample_and_moves_a_hundredth():
    samples = [torch.tensor([-1.0, 3.0]), torch.tensor([-5.0, 7.0])]
    observer = activation("moving-average")
    measured(observer, *samples)
    assert observer.min_val.item() == pytest.approx(-1.04) and observer.max_val.item() == pytest.approx(3.04)


@pytest.mark.parametrize("name", OBSERVERS)
def test_observers_that_share_a_calibration_have_the_same_state(name):
    samples = [torch.randn(500) * scale for scale in (1, 3)]
    shared = dataclasses.replace(SETTINGS, activation_observer=name).statistics
    own, other = activation(name), activation(shared)
    before = measured(own, *samples)
    measured(other, *samples)
    assert own.state_dict().keys() == other.state_dict().keys()
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in own.state_dict().items())
    fresh = activation(name)
    for key, value in other.state_dict().items():
        setattr(fresh, key, value)
    assert all(map(torch.equal, fresh.calculate_qparams(), before))


def rounding_error(row, scale, limit):
    return sum((min(max(round(x / scale), -limit), limit) * scale - x) ** 2 for x in row)


@pytest.mark.parametrize("power_of_two", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("granularity", ["per-channel", "per-tensor"])
def test_no_clipping_of_the_grid_rounds_a_weight_better(granularity, bits, power_of_two):
    values = (
        torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(0))
        * torch.tensor([1, 9, 0.1])[:, None, None]
    )
    observer = weight("mse", granularity, bits, power_of_two_scales=power_of_two)
    scales, zero_points = measured(observer, values)
    assert not zero_points.any()
    limit = 2 ** (bits - 1) - 1
    rows = (values.reshape(3, -1) if granularity == "per-channel" else values.reshape(1, -1)).tolist()
    for row, scale in zip(rows, scales.tolist(), strict=True):
        tried = [max(map(abs, row)) / limit * (1 - 0.01 * index) for index in range(81)]
        if power_of_two:
            tried = [2.0 ** math.ceil(math.log2(value)) for value in tried]
        assert min(abs(scale / value - 1) for value in tried) < 1e-5
        least = min(rounding_error(row, value, limit) for value in tried)
        assert rounding_error(row, scale, limit) <= least * (1 + 1e-3) + 1e-12


def test_large_weights_are_searched_in_parts():
    values = torch.randn(40, 9000, generator=torch.Generator().manual_seed(0)) * torch.rand(40, 1)
    together, _ = measured(weight("mse", bits=3), values)
    apart = torch.cat([measured(weight("mse", bits=3), row[None])[0] for row in values])
    assert torch.equal(together, apart) and bool(
        (together < measured(weight("min-max", bits=3), values)[0]).all()
    )
