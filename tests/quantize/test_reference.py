"""The integer-exact reference against slow integers in NumPy, and against the engines' own kernels."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quantized_net import Net, layers_of, quantized
from torch import nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from edgecompile.quantize.exact_layer import ExactLayer
from edgecompile.quantize.layers import (
    DEQUANTIZE,
    QuantizationParameters,
    Weights,
    parameters_of,
    quantized_layers,
)
from edgecompile.quantize.reference import Reference, dequantize_tensor, quantize_tensor

CONVOLUTIONS = {
    "plain": ({"kernel_size": 3}, 4),
    "pointwise": ({"kernel_size": 1}, 4),
    "grouped": ({"kernel_size": 3, "groups": 2}, 6),
    "depthwise": ({"kernel_size": 3, "groups": 4, "padding": 1}, 4),
    "strided": ({"kernel_size": 3, "stride": (2, 1), "padding": (0, 2)}, 4),
    "dilated": ({"kernel_size": (3, 2), "dilation": (2, 1), "padding": 1, "bias": False}, 4),
}
CLAMPS = {"": None, "relu": nn.ReLU(), "relu6": nn.ReLU6(), "hardtanh": nn.Hardtanh(-0.5, 0.75)}


def random_input(layer, generator, index=0):
    shape = layer.inputs[index].meta["val"].shape
    return torch.randint(-128, 128, shape, generator=generator).to(torch.int8)


def requantized(layer, accumulator, channel_axis):
    """Requantize int64 accumulators as the module's docstring of the reference says."""
    shape = [1] * accumulator.ndim
    shape[channel_axis] = -1
    scale_in, scale_out = (
        np.float32(layer.input_parameters[0].scale),
        np.float32(layer.output_parameters.scale),
    )
    weights = layer.weights
    scales = weights.scales.numpy()
    if weights.bias is not None:
        bias = np.rint(
            weights.bias.numpy().astype(np.float64)
            / (scales.astype(np.float64) * layer.input_parameters[0].scale)
        )
        accumulator = accumulator + bias.astype(np.int64).reshape(shape)
    assert np.abs(accumulator).max() < 2**31
    multiplier = (scales * scale_in / scale_out).astype(np.float32).reshape(shape)
    low, high = layer.quantized_bounds
    rounded = np.rint(accumulator.astype(np.int32).astype(np.float32) * multiplier).astype(np.int64)
    return np.clip(rounded + layer.output_parameters.zero_point, low, high).astype(np.int8)


def slow_convolution(layer, value):
    """Convolve in int64, one output position after another."""
    given_arguments = [*layer.compute.args[3:], *[[1, 1], [0, 0], [1, 1], 1][len(layer.compute.args[3:]) :]]
    (row_step, column_step), (rows, columns), (row_gap, column_gap), groups = given_arguments
    x = value.numpy().astype(np.int64) - layer.input_parameters[0].zero_point
    if layer.padding is not None:
        left, right, top, bottom = layer.padding.args[1]
        x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    x = np.pad(x, ((0, 0), (0, 0), (rows, rows), (columns, columns)))
    weight = layer.weights.weight.numpy().astype(np.int64)
    out, per_group, height, width = weight.shape
    result = np.zeros(layer.compute.meta["val"].shape, np.int64)
    for channel in range(out):
        first = channel // (out // groups) * per_group
        for row in range(result.shape[2]):
            for column in range(result.shape[3]):
                top, left = row * row_step, column * column_step
                window = x[:, first : first + per_group, top::row_gap, left::column_gap][
                    :, :, :height, :width
                ]
                result[:, channel, row, column] = (window * weight[channel]).sum((1, 2, 3))
    return requantized(layer, result, 1)


@pytest.mark.parametrize("clamp", CLAMPS)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_equal_slow_integers(name, clamp):
    options, out = CONVOLUTIONS[name]
    layers = [nn.Conv2d(4, out, **options), CLAMPS[clamp]]
    program = quantized(nn.Sequential(*(layer for layer in layers if layer is not None)), 2, 4, 7, 6)
    (layer,) = quantized_layers(program.exported)
    value = random_input(layer, torch.Generator().manual_seed(1))
    assert np.array_equal(ExactLayer(layer).compute([value], "exact").numpy(), slow_convolution(layer, value))


def test_padding_of_the_unit():
    net = Net(lambda net, x: net.conv(F.pad(x, (0, 1, 2, 0))), conv=nn.Conv2d(4, 4, 3, stride=2))
    (layer,) = quantized_layers(quantized(net, 2, 4, 7, 6).exported)
    assert layer.padding is not None
    value = random_input(layer, torch.Generator().manual_seed(1))
    assert np.array_equal(ExactLayer(layer).compute([value], "exact").numpy(), slow_convolution(layer, value))


@pytest.mark.parametrize("shape", [(3, 16), (2, 3, 16), (1, 2000)])
@pytest.mark.parametrize("clamp", ["", "relu6"])
def test_linear_equals_slow_integers(shape, clamp):
    layers = [nn.Linear(shape[-1], 5, bias=clamp == ""), CLAMPS[clamp]]
    program = quantized(nn.Sequential(*(layer for layer in layers if layer is not None)), *shape)
    (layer,) = quantized_layers(program.exported)
    # The largest sums: float32 would no longer hold them.
    for value in (
        random_input(layer, torch.Generator().manual_seed(1)),
        torch.full(shape, -128, dtype=torch.int8),
    ):
        x = value.numpy().astype(np.int64) - layer.input_parameters[0].zero_point
        expected = requantized(layer, x @ layer.weights.weight.numpy().astype(np.int64).T, -1)
        assert np.array_equal(ExactLayer(layer).compute([value], "exact").numpy(), expected)


def test_a_deep_convolution_is_summed_exactly():
    (layer,) = quantized_layers(quantized(nn.Conv2d(128, 2, 3), 1, 128, 3, 3).exported)
    value = torch.where(layer.weights.weight[:1] < 0, -128, 127).to(torch.int8)
    assert np.array_equal(ExactLayer(layer).compute([value], "exact").numpy(), slow_convolution(layer, value))


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("name", ["plain", "pointwise", "depthwise", "strided"])
def test_qnnpack_equals_the_reference(name, per_channel):
    options, out = CONVOLUTIONS[name]
    granularity = "per-channel" if per_channel else "per-tensor"
    net = nn.Sequential(nn.Conv2d(4, out, **options), nn.ReLU())
    program = quantized(net, 2, 4, 7, 6, weight_granularity=granularity)
    (layer,) = quantized_layers(program.exported)
    value = random_input(layer, torch.Generator().manual_seed(2))
    x, y = layer.input_parameters[0], layer.output_parameters
    arguments = [*layer.compute.args[3:], *[[1, 1], [0, 0], [1, 1], 1][len(layer.compute.args[3:]) :]]
    engine = torch.backends.quantized.engine
    torch.backends.quantized.engine = "qnnpack"
    try:
        weight = torch._make_per_channel_quantized_tensor(
            layer.weights.weight, layer.weights.scales.double(), torch.zeros(out, dtype=torch.long), 0
        )
        packed = torch.ops.quantized.conv2d_prepack(weight, layer.weights.bias, *arguments)
        moved = (value.to(torch.int16) + 128).to(torch.uint8)
        steps = torch._make_per_tensor_quantized_tensor(moved, x.scale, x.zero_point + 128)
        result = torch.ops.quantized.conv2d_relu(steps, packed, y.scale, y.zero_point + 128)
    finally:
        torch.backends.quantized.engine = engine
    found = (result.int_repr().to(torch.int16) - 128).to(torch.int8)
    assert torch.equal(found, ExactLayer(layer).compute([value], "qnnpack"))


SCALES = st.floats(2**-8, 2**2)
POINTS = st.integers(-128, 127)


def grid(scale, zero_point):
    return QuantizationParameters(scale=scale, zero_point=zero_point, quant_min=-128, quant_max=127)


@pytest.fixture(scope="module")
def addition():
    net = Net(lambda net, x: F.relu6(net.one(x) + net.two(x)), one=nn.Conv2d(3, 3, 1), two=nn.Conv2d(3, 3, 1))
    program = quantized(net, 1, 3, 4, 4)
    return layers_of(program)["add"]


def with_grids(layer, *grids):
    """Write other scales and zero points into a layer's quantize and dequantize nodes."""
    for node, values in zip((*layer.inputs, layer.output), grids, strict=True):
        node.args = (node.args[0], *values, *node.args[3:])


@settings(max_examples=60)
@given(st.lists(st.tuples(SCALES, POINTS), min_size=3, max_size=3), st.sampled_from(["xnnpack", "qnnpack"]))
def test_additions_in_fixed_point_are_within_a_step(addition, grids, arithmetic):
    # The engines' own bounds on the ratio of the scales.
    if not all(2**-10 <= scale / grids[2][0] < 2**8 for scale, _ in grids[:2]):
        return
    with_grids(addition, *grids)
    generator = torch.Generator().manual_seed(3)
    values = [random_input(addition, generator, index) for index in (0, 1)]
    exact = ExactLayer(addition).compute(values, "exact").int()
    found = ExactLayer(addition).compute(values, arithmetic).int()
    assert int((found - exact).abs().max()) <= 1
    assert float((found == exact).float().mean()) > 0.5


@settings(max_examples=60)
@given(SCALES, POINTS, st.integers(0, 2**31))
def test_quantize_and_dequantize(scale, zero_point, seed):
    parameters = grid(scale, zero_point)
    steps = torch.randint(-128, 128, (50,), generator=torch.Generator().manual_seed(seed)).to(torch.int8)
    real = dequantize_tensor(steps, parameters)
    expected = torch.ops.quantized_decomposed.dequantize_per_tensor(
        steps, scale, zero_point, -128, 127, torch.int8
    )
    assert torch.equal(real, expected)
    assert torch.equal(quantize_tensor(real, parameters), steps)
    noisy = real + torch.randn(50) * scale
    expected = torch.ops.quantized_decomposed.quantize_per_tensor(
        noisy, scale, zero_point, -128, 127, torch.int8
    )
    assert torch.equal(quantize_tensor(noisy, parameters), expected)


@pytest.fixture(scope="module")
def weighted():
    def layer(module, *shape):
        (found,) = quantized_layers(quantized(module, *shape).exported)
        return found

    return {
        "plain": layer(nn.Conv2d(3, 4, 3, padding=1, stride=2), 1, 3, 6, 5),
        "depthwise": layer(nn.Conv2d(6, 6, 3, groups=6), 1, 6, 5, 5),
        "deep": layer(nn.Conv2d(600, 3, 3), 1, 600, 3, 3),
        "deep and grouped": layer(nn.Conv2d(1200, 4, 3, groups=2), 1, 1200, 4, 3),
        "one dimension": layer(nn.Conv1d(600, 5, 7, stride=2), 1, 600, 12),
        "linear": layer(nn.Linear(9000, 7), 2, 9000),
    }


def slow_layer(layer, value):
    """Compute a layer with weights in int64."""
    if layer.kind == "conv2d":
        return slow_convolution(layer, value)
    x = value.numpy().astype(np.int64) - layer.input_parameters[0].zero_point
    weight = layer.weights.weight.numpy().astype(np.int64)
    if layer.kind == "linear":
        return requantized(layer, x @ weight.T, -1)
    windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2], axis=2)[:, :, ::2]
    return requantized(layer, np.einsum("nclk,ock->nol", windows, weight), 1)


@settings(max_examples=150)
@given(
    name=st.sampled_from(["plain", "depthwise", "deep", "deep and grouped", "one dimension", "linear"]),
    grids=st.lists(st.tuples(SCALES, POINTS), min_size=2, max_size=2),
    spread=st.sampled_from([1, 30, 127]),
    bias_bits=st.sampled_from([None, 10, 24, 30]),
    cancelling=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_any_layer_with_weights_equals_slow_integers(
    weighted, name, grids, spread, bias_bits, cancelling, seed
):
    with_grids(weighted[name], *grids)
    generator = torch.Generator().manual_seed(seed)
    weight = weighted[name].weights.weight
    weight = torch.randint(-spread, spread + 1, weight.shape, generator=generator).to(torch.int8)
    scales = torch.rand(len(weight), generator=generator) + 1e-3
    bias = None
    if bias_bits is not None:
        steps = torch.randint(-(2**bias_bits), 2**bias_bits, (len(weight),), generator=generator)
        bias = (steps * scales.double() * grids[0][0]).float()
    layer = dataclasses.replace(weighted[name], weights=Weights(weight=weight, scales=scales, bias=bias))
    value = random_input(layer, generator)
    if cancelling and weight.shape[1] > 1:
        # Sums that leave what float32 holds and come back to nothing: what was lost on the way would show.
        axis, half = -1 if layer.kind == "linear" else 1, weight.shape[1] // 2
        zero_point = layer.input_parameters[0].zero_point
        value = (126 if zero_point < 0 else -128) + (value & 1)
        channels = value.unflatten(axis, (-1, weight.shape[1]))  # a view with an axis of groups
        axis = -1 if layer.kind == "linear" else 2
        channels.narrow(axis, half, half).copy_(channels.narrow(axis, 0, half))
        weight[:, :half].abs_()
        weight[:, half : half * 2] = -weight[:, :half]
    found = ExactLayer(layer).compute([value], "exact").numpy()
    assert np.array_equal(found, slow_layer(layer, value))


def test_a_whole_program_is_as_close_to_float_as_its_own_simulation():
    torch.manual_seed(0)

    def forward(net, x):
        h = F.max_pool2d(net.first(x), 2)
        h = torch.cat([F.relu6(net.second(h) + h), torch.sigmoid(h)], 1)
        return net.head(h.mean((2, 3))), h

    net = Net(forward, first=nn.Conv2d(3, 4, 3), second=nn.Conv2d(4, 4, 1), head=nn.Linear(8, 5))
    program = quantized(net, 1, 3, 10, 10)
    x = torch.randn(1, 3, 10, 10, generator=torch.Generator().manual_seed(0))
    seen = []
    found = Reference(program.exported).run(
        [x], lambda layer, inputs, output: seen.append((layer, inputs, output))
    )
    simulated = program.exported.module(check_guards=False)(x)
    for one, other, node in zip(found, simulated, program.exported.graph.output_node().args[0], strict=True):
        assert node.target is DEQUANTIZE
        torch.testing.assert_close(one, other, rtol=0, atol=2.01 * parameters_of(node).scale)
    assert [layer.name for layer, _, _ in seen] == [
        layer.name for layer in quantized_layers(program.exported)
    ]
    assert all(value.dtype == torch.int8 for _, inputs, output in seen for value in (*inputs, output))
