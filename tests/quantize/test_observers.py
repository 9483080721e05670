"""The observers give torchao's own ranges, to the bit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchao.quantization.pt2e.observer import HistogramObserver, MinMaxObserver, PerChannelMinMaxObserver

from edgecompile.quantize.observers import (
    ActivationHistogram,
    WeightChannelRanges,
    WeightRange,
    count_bins,
)

SPEC = {"dtype": torch.int8, "quant_min": -128, "quant_max": 127, "eps": 2**-12}


@settings(max_examples=100, deadline=None)
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
    low, high = values.min(), values.max() + spread * torch.rand((), generator=generator)
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
