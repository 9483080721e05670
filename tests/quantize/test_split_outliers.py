"""Outlier channel splitting: the same program in float, less noise of the weights in INT8."""

from dataclasses import replace

import pytest
import torch
from badly_scaled import Outliers
from hypothesis import given, settings
from hypothesis import strategies as st
from test_equalize import TARGET, Randoms, captured, samples, values
from torch import nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from edgecompile.compare import closeness
from edgecompile.dataset import Dataset
from edgecompile.progress import QuietProgress
from edgecompile.pruning.channel_groups import find_groups
from edgecompile.pruning.costs import terms_of, total
from edgecompile.quantize.correct_weights import correct_weights
from edgecompile.quantize.fit_channels import find_fit, fitted
from edgecompile.quantize.split_outliers import _can_repeat, repeat_channels
from edgecompile.quantize.static_int8 import quantize

SETTINGS = {share: replace(TARGET.quantization, channel_splitting=share) for share in (0.0, 0.1)}


@pytest.fixture(scope="module")
def outliers():
    return captured(Outliers(), 1, 16, 8, 8), samples(1, 16, 8, 8, count=32)


def test_outliers_are_split_and_nothing_changes_in_float(outliers):
    program, data = outliers
    found = find_fit(program, data, SETTINGS[0.1], QuietProgress())
    result = fitted(program, found)
    assert (result.steps[-1].name, result.steps[-1].rewrites) == (
        "split-channels",
        int((found.counts - 1).sum()),
    )
    for sample in data:
        torch.testing.assert_close(
            values(result, sample.inputs), values(program, sample.inputs), rtol=1e-4, atol=1e-5
        )
    macs = [
        total(terms_of(own.exported, groups, "macs"), torch.ones(groups.count))
        for own in (program, result)
        for groups in (find_groups(own.exported),)
    ]
    assert macs[0] < macs[1] <= 1.1 * macs[0]


@pytest.mark.parametrize(("bits", "gain_db"), [(8, 2), (6, 6)])
def test_noise_falls(outliers, bits, gain_db):
    program, data = outliers
    sqnr_db = {}
    for share, settings_of_share in SETTINGS.items():
        own = replace(settings_of_share, weight_bits=bits)
        in_float = fitted(program, find_fit(program, data, own, QuietProgress()))
        quantized = quantize(in_float, Dataset(samples=tuple(data), spec=""), own, QuietProgress())
        quantized = correct_weights(quantized, in_float, data, own, QuietProgress())
        module = quantized.exported.module(check_guards=False)
        with torch.no_grad():
            outputs = [(module(*sample.inputs),) for sample in data]
        sqnr_db[share] = closeness(outputs, [(values(program, sample.inputs),) for sample in data]).sqnr_db
    assert sqnr_db[0.1] > sqnr_db[0.0] + gain_db


def test_a_network_without_outliers_is_left_alone():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.Conv2d(32, 4, 1))
    program = captured(net, 1, 3, 8, 8)
    found = find_fit(program, samples(1, 3, 8, 8), TARGET.quantization, QuietProgress())
    assert len(found.counts) == 0


@settings(max_examples=40)
@given(seed=st.integers(0, 2**31))
def test_any_counts_of_what_can_be_repeated_change_nothing(seed):
    program = captured(Randoms(seed), 1, 4, 6, 6)
    free = _can_repeat(program.exported, find_groups(program.exported))
    generator = torch.Generator().manual_seed(seed)
    counts = 1 + torch.randint(3, free.shape, generator=generator) * free
    result = repeat_channels(program.exported, counts).module(check_guards=False)
    (sample,) = samples(1, 4, 6, 6, count=1, seed=seed)
    with torch.no_grad():
        torch.testing.assert_close(
            result(*sample.inputs), values(program, sample.inputs), rtol=1e-3, atol=1e-4
        )


class Flat(nn.Module):
    """A channel becomes several columns of a linear layer; a norm and an output see all channels at once."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8)
        self.second, self.third = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1, groups=2)
        self.fourth, self.head = nn.Conv2d(8, 8, 1), nn.Linear(8 * 16, 4)

    def forward(self, x):
        x = F.relu(self.second(self.norm(self.first(x))))
        x = self.fourth(F.relu(self.third(x)).softmax(1))
        return self.head(x.flatten(1))


def test_channels_that_something_sees_together_are_not_repeated():
    program = captured(Flat(), 1, 3, 4, 4)
    assert not _can_repeat(program.exported, find_groups(program.exported)).any()


def test_layers_over_the_last_of_four_axes_are_left_alone():
    """The channels of four axes are taken to be the second; a linear layer has its features last."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 7))
    program, data = captured(net, 1, 4, 5, 6), samples(1, 4, 5, 6, count=4)
    counts = find_fit(program, data, SETTINGS[0.1], QuietProgress()).counts
    assert counts is None or bool((counts == 1).all())
