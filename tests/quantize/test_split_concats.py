"""Splitting of concatenations: the same program in float, and a narrow input keeps its bits."""

from dataclasses import replace

import pytest
import torch
from badly_scaled import Branches
from hypothesis import given, settings
from hypothesis import strategies as st
from test_equalize import TARGET, captured, samples, values
from torch import nn

from edgecompile.compare import closeness
from edgecompile.dataset import Dataset
from edgecompile.progress import QuietProgress
from edgecompile.quantize.correct_weights import correct_weights
from edgecompile.quantize.fit_channels import find_fit, fitted
from edgecompile.quantize.layers import constants_of
from edgecompile.quantize.split_concats import _can_split, split_concats
from edgecompile.quantize.static_int8 import quantize

CAT = torch.ops.aten.cat.default


def sqnr_db(program, data, own):
    in_float = fitted(program, find_fit(program, data, own, QuietProgress()))
    quantized = quantize(in_float, Dataset(samples=tuple(data), spec=""), own, QuietProgress())
    quantized = correct_weights(quantized, in_float, data, own, QuietProgress())
    assert quantized.unquantized == ()  # every operator computes in integers
    module = quantized.exported.module(check_guards=False)
    with torch.no_grad():
        outputs = [(module(*sample.inputs),) for sample in data]
    return closeness(outputs, [(values(program, sample.inputs),) for sample in data]).sqnr_db


def test_a_narrow_branch_keeps_its_bits_and_nothing_changes_in_float():
    program, data = captured(Branches(), 1, 4, 8, 8), samples(1, 4, 8, 8, count=24)
    found = find_fit(program, data, TARGET.quantization, QuietProgress())
    assert {name: parts.tolist() for name, parts in found.parts.items()} == {"cat": [1, 0, 1]}
    result = fitted(program, found)
    assert [step.rewrites for step in result.steps if step.name == "split-concats"] == [2]
    for sample in data:
        torch.testing.assert_close(
            values(result, sample.inputs), values(program, sample.inputs), rtol=1e-4, atol=1e-5
        )
    without = replace(TARGET.quantization, concat_splitting=False)
    assert sqnr_db(program, data, TARGET.quantization) > sqnr_db(program, data, without) + 10


def test_branches_of_one_range_stay_together():
    program, data = captured(Branches(ratio=1.0), 1, 4, 8, 8), samples(1, 4, 8, 8)
    assert find_fit(program, data, TARGET.quantization, QuietProgress()).parts == {}


class Joined(nn.Module):
    """Concatenations drawn by a seed, each read by one or two layers."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        widths = torch.randint(1, 6, (int(torch.randint(2, 5, ())),)).tolist()
        self.linear, self.several = bool(torch.randint(2, ())), bool(torch.randint(2, ()))
        begin = nn.Linear if self.linear else (lambda columns, rows: nn.Conv2d(columns, rows, 1))
        bias, padding = bool(torch.randint(2, ())), int(torch.randint(2, ()))
        self.branches = nn.ModuleList(begin(6, width) for width in widths)
        if self.linear:
            self.readers = nn.ModuleList(nn.Linear(sum(widths), 5, bias=bias) for _ in range(2))
        else:
            self.readers = nn.ModuleList(
                nn.Conv2d(sum(widths), 5, 3, stride=1 + padding, padding=padding, bias=bias) for _ in range(2)
            )

    def forward(self, x):
        joined = torch.cat([branch(x).sin() for branch in self.branches], -1 if self.linear else 1)
        first = self.readers[0](joined)
        return first * self.readers[1](joined) if self.several else first


@settings(max_examples=40)
@given(seed=st.integers(0, 2**31))
def test_any_parts_change_nothing(seed):
    net = Joined(seed)
    shape = (2, 7, 6) if net.linear else (2, 6, 7, 7)
    program = captured(net, *shape)
    generator = torch.Generator().manual_seed(seed)
    (concat,) = program.exported.graph.find_nodes(op="call_function", target=CAT)
    parts = torch.randint(2, (len(net.branches),), generator=generator)
    parts[:2] = torch.tensor([0, 1])  # neither is empty
    result = split_concats(program.exported, {concat.name: parts})
    assert result.rewrites == 1 + net.several
    (sample,) = samples(*shape, count=1, seed=seed)
    with torch.no_grad():
        split = result.program.module(check_guards=False)(*sample.inputs)
    torch.testing.assert_close(split, values(program, sample.inputs), rtol=1e-4, atol=1e-5)


class Lines(nn.Module):
    """What is known of values with three axes is not always along those that a convolution reads."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv1d(8, 4, 3)

    def forward(self, x):
        return self.layer(torch.cat([x, (100 * x).sin()], 1))


def test_a_concatenation_of_lines_can_be_split_or_left():
    program, data = captured(Lines(), 1, 4, 9), samples(1, 4, 9)
    result = fitted(program, find_fit(program, data, TARGET.quantization, QuietProgress()))
    torch.testing.assert_close(values(result, data[0].inputs), values(program, data[0].inputs))


class Grouped(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(8, 8, 1, groups=2)

    def forward(self, x):
        return self.layer(torch.cat([x, x * x], 1))


class ReadTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        joined = torch.cat([x, x * x], 1)
        return self.layer(joined) + joined


class OtherAxis(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(4, 8, 1)

    def forward(self, x):
        return self.layer(torch.cat([x, x * x], 2))


@pytest.mark.parametrize("net", [Grouped(), ReadTwice(), OtherAxis()], ids=["grouped", "read", "axis"])
def test_what_not_only_layers_over_its_channels_read_stays(net):
    exported = captured(net, 1, 4, 6, 6).exported
    (concat,) = exported.graph.find_nodes(op="call_function", target=CAT)
    assert not _can_split(concat, constants_of(exported))
