"""Absorption: the same program in float, narrower ranges in INT8."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_equalize import TARGET, Randoms, captured, fit, fitted, samples, values
from torch import nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from edgecompile.dataset import Dataset
from edgecompile.progress import QuietProgress
from edgecompile.quantize.absorb import apply_offsets, missing_of, offset_places
from edgecompile.quantize.channels import channels_of
from edgecompile.quantize.fit_channels import find_fit
from edgecompile.quantize.layers import quantized_layers
from edgecompile.quantize.static_int8 import quantize


class Residual(nn.Module):
    """Two layers added up, far from zero and each channel elsewhere, that 1x1 convolutions read."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.deeper = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1)
        self.back, self.last = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1)
        with torch.no_grad():
            self.first.bias.copy_(torch.linspace(-20, 20, 8))
            self.back.bias.copy_(torch.linspace(10, -10, 8))

    def forward(self, x):
        x = self.first(x)
        x = x + self.back(F.relu(self.deeper(x)))
        return self.last(x).mean([2, 3])


def test_offsets_leave_a_chain_of_additions_and_nothing_changes_in_float():
    program, data = captured(Residual(), 1, 3, 8, 8), samples(1, 3, 8, 8)
    found = fit(program, data, absorb=True)
    assert set(found.offsets) == {"conv2d", "conv2d_2"}
    result = fitted(program, found)
    for sample in data:
        expected = values(program, sample.inputs)
        torch.testing.assert_close(values(result, sample.inputs), expected, rtol=1e-4, atol=1e-5)
    assert (result.steps[-1].name, result.steps[-1].rewrites) == ("absorb", 4)


def test_ranges_become_narrow_and_noise_small():
    program, data = captured(Residual(), 1, 3, 8, 8), samples(1, 3, 8, 8, count=24)
    step, noise = {}, {}
    for absorb in (False, True):
        plain = replace(TARGET.quantization, equalization=False, bias_absorption=absorb)
        in_float = fitted(program, find_fit(program, data, plain, QuietProgress()))
        quantized = quantize(in_float, Dataset(samples=tuple(data), spec=""), plain, QuietProgress())
        layers = {layer.name: layer for layer in quantized_layers(quantized.exported)}
        step[absorb] = layers["add"].output_parameters.scale
        module = quantized.exported.module(check_guards=False)
        with torch.no_grad():
            errors = [module(*sample.inputs) - values(program, sample.inputs) for sample in data]
        noise[absorb] = sum(float(error.square().sum()) for error in errors)
    assert step[True] < step[False] / 3
    assert noise[True] < noise[False]


@settings(max_examples=40)
@given(seed=st.integers(0, 2**31))
def test_any_network_is_the_same_in_float(seed):
    program, data = captured(Randoms(seed), 1, 4, 6, 6), samples(1, 4, 6, 6, seed=seed)
    result = fitted(program, fit(program, data, absorb=True))
    for sample in data:
        expected = values(program, sample.inputs)
        difference = (values(result, sample.inputs) - expected).norm()
        assert difference <= 1e-4 * expected.norm() + 1e-6


@settings(max_examples=40)
@given(seed=st.integers(0, 2**31))
def test_any_offsets_where_they_may_be_change_nothing(seed):
    program = captured(Randoms(seed), 1, 4, 6, 6)
    channels = channels_of(program.exported)
    places = offset_places(program.exported, channels)
    drawn = torch.randn(len(places.held), generator=torch.Generator().manual_seed(seed)) * ~places.held
    offsets = {node.name: drawn[first : first + places.width(node)] for node, first in places.first.items()}
    moved = apply_offsets(program.exported, channels, offsets).program.module(check_guards=False)
    (sample,) = samples(1, 4, 6, 6, count=1, seed=seed)
    with torch.no_grad():
        torch.testing.assert_close(
            moved(*sample.inputs), values(program, sample.inputs), rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize(
    "reader",
    [
        nn.Conv2d(8, 4, 3, padding=1),  # the padding's zeros would be something else
        nn.Sequential(nn.ReLU(), nn.Conv2d(8, 4, 1)),
        nn.Sequential(nn.Hardswish(), nn.Conv2d(8, 4, 1)),
        nn.Sequential(nn.MaxPool2d(2, padding=1), nn.Conv2d(8, 4, 1)),
        nn.Identity(),  # the output itself
    ],
)
def test_where_a_constant_is_not_one_afterwards_it_stays(reader):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), reader)
    program = captured(net, 1, 3, 8, 8)
    places = offset_places(program.exported, channels_of(program.exported))
    first = next(node for node in places.first if node.name == "conv2d")
    assert not places.can_move(first)


def test_concatenated_values_keep_their_own_offsets():
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 3, 1)
            self.last = nn.Conv2d(8, 4, 1)

        def forward(self, x):
            return self.last(torch.cat([self.left(x), F.relu(x), self.right(x)], 1))

    program = captured(Joined(), 1, 3, 4, 4)
    offsets = {"conv2d": torch.tensor([1.0, 2.0]), "conv2d_1": torch.tensor([3.0, 4.0, 5.0])}
    channels = channels_of(program.exported)
    missing = missing_of(program.exported, channels, offsets)
    assert missing["cat"].tolist() == [1, 2, 0, 0, 0, 3, 4, 5]
    moved = apply_offsets(program.exported, channels, offsets).program.module(check_guards=False)
    (sample,) = samples(1, 3, 4, 4, count=1)
    with torch.no_grad():
        torch.testing.assert_close(moved(*sample.inputs), values(program, sample.inputs))
