"""Weights in few bits: what the grids lose, and which layers get which."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from quantized_net import Net, rewritten
from torch import nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from edgecompile.quantize.layers import DEQUANTIZE_PER_CHANNEL, constants_of
from edgecompile.quantize.reference import Reference
from edgecompile.quantize.weights import WeightGrid
from edgecompile.quantize.weights_only import quantize_weights
from edgecompile.target import load_target

SETTINGS = load_target("linux-arm64").quantization


@given(st.integers(0, 10**6), st.integers(2, 8), st.sampled_from([1e-20, 1.0, 1e20]))
def test_a_channel_is_symmetric_and_off_by_half_a_step_at_most(seed, bits, size):
    weight = torch.randn(5, 3, 2, generator=torch.Generator().manual_seed(seed)) * size
    grid = WeightGrid(bits=bits)
    steps, scales = grid.quantize(weight)
    assert steps.shape == weight.shape and steps.dtype == torch.int8 and (scales > 0).all()
    assert grid.bounds == (-grid.bounds[1], grid.bounds[1])
    assert (steps.flatten(1).abs().amax(1) == grid.bounds[1]).all(), "the extreme is a step"
    error = (steps * scales[:, None, None] - weight).abs().flatten(1).amax(1)
    assert (error <= scales * 0.5001).all()


@given(st.integers(0, 10**6), st.sampled_from([16, 32]))
def test_a_group_uses_all_steps_of_4_bits(seed, group_size):
    weight = torch.randn(6, 64, generator=torch.Generator().manual_seed(seed))
    steps, scales = WeightGrid(bits=4, group_size=group_size).quantize(weight)
    assert steps.shape == (6 * 64 // group_size, group_size) and len(scales) == len(steps)
    assert (steps.amin(1) == -8).all() and steps.max() <= 7
    rows = weight.view(-1, group_size)
    values = steps * scales[:, None]
    extreme = rows.abs().argmax(1, keepdim=True)
    torch.testing.assert_close(values.gather(1, extreme), rows.gather(1, extreme))
    inside = rows / scales[:, None] <= 7.5  # beyond that the greatest step is all there is
    assert ((values - rows).abs() <= scales.abs()[:, None] * 0.5001)[inside].all()
    assert (values - rows).abs().max() <= scales.abs().max() * 1.0001


@pytest.mark.parametrize("group_size", [0, 16])
def test_zeros_stay_zeros(group_size):
    steps, scales = WeightGrid(bits=4, group_size=group_size).quantize(torch.zeros(2, 16))
    assert (steps == 0).all() and torch.isfinite(scales).all() and (scales > 0).all()


def mixed(net, x):
    features = net.conv(x).mean((2, 3))
    return net.last(net.odd(features)) + F.linear(features, features @ features.mT @ features)


def mixed_program(bits):
    net = Net(mixed, conv=nn.Conv2d(3, 32, 3), odd=nn.Linear(32, 70), last=nn.Linear(70, 4))
    return quantize_weights(rewritten(net, 4, 3, 8, 8), SETTINGS, bits)


def test_int8_weights():
    program = mixed_program(8)
    assert program.precision == "int8-weights" and program.steps[-1].rewrites == 3
    weights = [
        node.args[4:6] for node in program.exported.graph.nodes if node.target is DEQUANTIZE_PER_CHANNEL
    ]
    assert weights == [(-127, 127)] * 3
    assert program.unquantized == ()  # a layer whose weight is computed is a product of two values


def test_int4_weights_say_what_is_stored_in_8_bits():
    program = mixed_program(4)
    assert program.precision == "int4-weights" and program.steps[-1].rewrites == 3
    weights = [
        node.args[4:6] for node in program.exported.graph.nodes if node.target is DEQUANTIZE_PER_CHANNEL
    ]
    assert weights == [(-127, 127), (-8, 7), (-127, 127)]
    rows = {row.what: row.reason for row in program.unquantized}
    assert rows["conv2d (conv2d)"].endswith("in 8 bits: only linear layers have kernels for 4 bits")
    assert rows["linear (linear_1)"].endswith("its 70 inputs are no multiple of the group of 32")


def test_a_weight_that_several_layers_read_is_stored_once():
    layer = nn.Linear(32, 32)
    program = rewritten(Net(lambda net, x: net.layer(torch.relu(net.layer(x))), layer=layer), 2, 32)
    tied = quantize_weights(program, SETTINGS, 4)
    stored = [value for value in constants_of(tied.exported).values() if value.dtype == torch.int8]
    assert len(stored) == 1 and tied.steps[-1].rewrites == 2
    nodes = [node for node in tied.exported.graph.nodes if node.target is DEQUANTIZE_PER_CHANNEL]
    assert len(nodes) == 2, "a delegate takes each layer by itself"


@pytest.mark.parametrize("bits", [4, 8])
def test_the_reference_is_the_program_in_float(bits):
    program = mixed_program(bits)
    value = torch.randn(4, 3, 8, 8)
    (output,) = Reference(program.exported).run((value,))
    assert torch.equal(output, program.exported.module(check_guards=False)(value))
