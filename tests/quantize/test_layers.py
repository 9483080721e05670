"""Weights, biases and bounds of quantized layers."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from quantized_net import Net, layers_of, quantized
from torch import nn

from edgecompile.quantize.layers import QuantizationParameters, multiply_accumulates, quantized_layers

SHAPE = (1, 3, 8, 8)


def convolution(**settings):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU6())
    nn.init.normal_(net[0].weight)
    return net, layers_of(quantized(net, *SHAPE, **settings))["conv2d"]


@pytest.mark.parametrize("granularity", ["per-channel", "per-tensor"])
@pytest.mark.parametrize("bits", [8, 7, 4])
def test_weights(granularity, bits):
    net, layer = convolution(weight_granularity=granularity, weight_bits=bits)
    limit = 2 ** (bits - 1) - 1
    weight, scales = layer.weights.weight, layer.weights.scales
    assert weight.dtype == torch.int8
    largest = weight.abs().amax((1, 2, 3))
    assert (largest.max() if granularity == "per-tensor" else largest.min()) == limit
    assert largest.max() == limit
    assert scales.shape == (4,)
    assert (len(set(scales.tolist())) == 1) == (granularity == "per-tensor")
    error = (weight * scales.reshape(-1, 1, 1, 1) - net[0].weight).abs()
    assert bool((error <= scales.reshape(-1, 1, 1, 1) * 0.501).all())


@pytest.mark.parametrize("granularity", ["per-channel", "per-tensor"])
def test_biases_are_on_the_grid(granularity):
    net, layer = convolution(weight_granularity=granularity)
    grid = layer.weights.scales.double() * layer.input_parameters[0].scale
    steps = layer.weights.bias.double() / grid
    torch.testing.assert_close(steps, steps.round(), rtol=2e-7, atol=1e-4)
    assert bool(((layer.weights.bias - net[0].bias).abs() <= grid * 0.501).all())


def test_a_layer_without_bias():
    layer = layers_of(quantized(nn.Linear(4, 3, bias=False), 2, 4))["linear"]
    assert layer.weights.bias is None


@pytest.mark.parametrize("observer", ["min-max", "histogram"])
def test_observers(observer):
    _, layer = convolution(activation_observer=observer)
    x = layer.input_parameters[0]
    assert (x.quant_min, x.quant_max) == (-128, 127)
    generator = torch.Generator().manual_seed(0)
    samples = torch.stack([torch.randn(SHAPE, generator=generator) for _ in range(3)])
    span = float(samples.max() - samples.min())
    if observer == "min-max":
        assert x.scale * 255 == pytest.approx(span, rel=1e-6)
    else:
        assert 0 < x.scale * 255 <= span * 1.01


def test_only_the_wanted_number_of_samples_calibrates():
    few = layers_of(quantized(nn.Linear(4, 3), 1, 4, seed=1, samples=8, calibration_samples=1))["linear"]
    many = layers_of(quantized(nn.Linear(4, 3), 1, 4, seed=1, samples=8))["linear"]
    assert few.input_parameters[0].scale < many.input_parameters[0].scale


def test_bounds():
    _, layer = convolution()
    assert layer.clamp_bounds == (0.0, 6.0)
    low, high = layer.quantized_bounds
    output = layer.output_parameters
    assert low == output.zero_point
    assert high == min(127, round(6 / output.scale) + output.zero_point)
    plain = layers_of(quantized(nn.Linear(4, 3), 1, 4))["linear"]
    assert plain.clamp_bounds == (-math.inf, math.inf)
    assert plain.quantized_bounds == (-128, 127)


@given(
    st.floats(1e-4, 10), st.integers(-128, 127), st.floats(-1e4, 1e4) | st.just(math.inf) | st.just(-math.inf)
)
def test_a_bound_is_the_nearest_value(scale, zero_point, bound):
    parameters = QuantizationParameters(scale=scale, zero_point=zero_point, quant_min=-128, quant_max=127)
    found = parameters.quantize_bound(bound)
    assert -128 <= found <= 127
    if -128 < found < 127:
        assert abs((found - zero_point) * scale - bound) <= scale * 0.5001 + 1e-6 * abs(bound)


def test_multiply_accumulates():
    program = quantized(
        nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 5)), 1, 4, 6, 6
    )
    assert [multiply_accumulates(layer) for layer in quantized_layers(program.exported)] == [
        8 * 16 * 2 * 9,
        0,
        640,
    ]


def test_layers_know_where_they_come_from():
    program = quantized(Net(lambda net, x: net.conv(x), conv=nn.Conv2d(3, 4, 1)), *SHAPE)
    (layer,) = quantized_layers(program.exported)
    assert layer.where.startswith("quantized_net.py:")
    assert layer.name == layer.compute.name
