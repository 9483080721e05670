"""What becomes one quantized unit, what shares its parameters, and what stays in float."""

import pytest
import torch
from quantized_net import Net, in_float, kinds, layers_of, quantized
from torch import nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from edgecompile.quantize.layers import DEQUANTIZE, QUANTIZE, quantized_layers

SHAPE = (1, 3, 8, 8)


@pytest.mark.parametrize(
    "activation", [nn.ReLU(), nn.ReLU6(), nn.ReLU6(inplace=True), nn.Hardtanh(-1, 1), None]
)
@pytest.mark.parametrize("norm", [nn.BatchNorm2d(4), None])
def test_a_convolution_with_its_clamp_is_one_unit(activation, norm):
    layers = [nn.Conv2d(3, 4, 3, padding=1), norm, activation]
    program = quantized(nn.Sequential(*(layer for layer in layers if layer is not None)), *SHAPE)
    (layer,) = quantized_layers(program.exported)
    assert (layer.kind, layer.clamp is not None) == ("conv2d", activation is not None)
    assert [node.target for node in layer.compute.users] == [
        QUANTIZE if activation is None else layer.clamp.target
    ]
    assert sum(node.target is QUANTIZE for node in program.exported.graph.nodes) == 2
    assert program.unquantized == ()


def test_asymmetric_padding_belongs_to_the_unit():
    program = quantized(
        Net(lambda net, x: net.conv(F.pad(x, (0, 1, 0, 1))).relu(), conv=nn.Conv2d(3, 4, 3)), *SHAPE
    )
    (layer,) = quantized_layers(program.exported)
    assert layer.padding is not None
    assert layer.padding.args[0] is layer.inputs[0]
    assert layer.clamp is not None
    assert program.unquantized == ()


@pytest.mark.parametrize(
    ("pads", "value", "kind"), [((0, 1, 0, 1), 0.5, "constant_pad_nd"), ((-1, 0, 0, 0), 0.0, "slice")]
)
def test_other_padding_is_no_part_of_the_unit(pads, value, kind):
    net = Net(
        lambda net, x: net.last(F.pad(net.conv(x), pads, value=value)),
        conv=nn.Conv2d(3, 4, 1),
        last=nn.Conv2d(4, 4, 3),
    )
    program = quantized(net, *SHAPE)
    assert kinds(program) == ["conv2d", kind, "conv2d"]
    assert all(layer.padding is None for layer in quantized_layers(program.exported))


def residual(net, x):
    h = net.first(x)
    return net.last(F.relu(net.second(h) + h))


def test_a_residual_addition_has_parameters_of_its_own():
    convs = {name: nn.Conv2d(3, 3, 1) for name in ("first", "second", "last")}
    program = quantized(Net(residual, **convs), *SHAPE)
    add = layers_of(program)["add"]
    assert kinds(program) == ["conv2d", "conv2d", "add", "conv2d"]
    assert add.clamp is not None
    scales = {parameters.scale for parameters in (*add.input_parameters, add.output_parameters)}
    assert len(scales) == 3
    assert add.output_parameters.zero_point == -128


@pytest.mark.parametrize("function", [lambda _, x: x + x, lambda _, x: x * x])
def test_a_tensor_with_itself(function):
    (layer,) = quantized_layers(quantized(Net(function), *SHAPE).exported)
    assert len(layer.inputs) == 2
    assert layer.inputs[0] is layer.inputs[1]


def test_a_concatenation_shares_one_set_of_parameters():
    net = Net(
        lambda net, x: torch.cat([net.one(x), net.two(x) * 1, x], 1),
        one=nn.Conv2d(3, 4, 1),
        two=nn.Conv2d(3, 2, 1),
    )
    program = quantized(net, *SHAPE)
    cat = layers_of(program)["cat"]
    assert {*cat.input_parameters, cat.output_parameters} == {cat.output_parameters}
    assert "one operand is a number" not in in_float(program)  # `* 1`, if it is left, is no layer
    assert len(cat.inputs) == 3


def beside(values, *, read=True):
    """Return a network that concatenates probabilities with other values, for a layer or as its output."""

    def joined(net, x):
        first = net.first(x)
        both = torch.cat([first.sigmoid()[:, :, 2:], values(first)[:, :, 2:]], 1)
        return net.last(both) if read else both

    return quantized(Net(joined, first=nn.Conv2d(3, 4, 1), last=nn.Conv2d(8, 4, 1)), *SHAPE)


def test_a_sigmoid_has_the_scale_of_what_it_is_concatenated_with():
    layers = layers_of(beside(lambda x: x * x))
    scale = layers["sigmoid"].output_parameters.scale
    assert scale == layers["cat"].output_parameters.scale == layers["mul"].output_parameters.scale
    assert scale > 2 / 256


@pytest.mark.parametrize("values", [torch.sigmoid, F.hardsigmoid])
def test_probabilities_alone_keep_the_scale_of_the_kernel(values):
    layers = layers_of(beside(values))
    assert layers["cat"].output_parameters.scale == layers["sigmoid"].output_parameters.scale == 1 / 256


def test_an_output_that_joins_probabilities_with_others_stays_in_float():
    program = beside(lambda x: x * x, read=False)
    assert "cat" not in layers_of(program)
    assert layers_of(program)["sigmoid"].output_parameters.scale == 1 / 256
    assert any("joins values of fixed bounds" in reason for reason in in_float(program).values())


@pytest.mark.parametrize("reader", [lambda x: F.max_pool2d(x, 2), lambda x: x.softmax(1), lambda x: x * 2])
def test_what_is_not_read_in_integers_stays_in_float_too(reader):
    net = Net(
        lambda net, x: reader(torch.cat([(first := net.first(x)).sigmoid(), first * first * 100], 1)),
        first=nn.Conv2d(3, 4, 1),
    )
    program = quantized(net, *SHAPE)
    assert layers_of(program)["sigmoid"].output_parameters.scale == 1 / 256
    assert kinds(program)[-1] == "sigmoid" or "mul" in kinds(program)[-2:]
    assert not {"cat", "max_pool2d"} & set(kinds(program))


def test_a_sigmoid_that_takes_only_the_shape_of_another_keeps_its_scale():
    net = Net(
        lambda net, x: net.first(x).mean((2, 3), keepdim=True).sigmoid().expand_as(net.first(x) * 100) * 1.5,
        first=nn.Conv2d(3, 4, 1),
    )
    assert layers_of(quantized(net, *SHAPE))["sigmoid"].output_parameters.scale == 1 / 256


@pytest.mark.parametrize(
    "function", [lambda _, x: F.max_pool2d(x, 2), lambda _, x: F.relu(x), lambda _, x: F.relu6(x)]
)
def test_comparisons_keep_their_inputs_parameters(function):
    (layer,) = quantized_layers(quantized(Net(function), *SHAPE).exported)
    assert layer.clamp is None
    assert layer.input_parameters == (layer.output_parameters,)


def test_moves_keep_their_inputs_parameters():
    net = Net(lambda net, x: net.conv(x).permute(0, 2, 3, 1).flatten(1)[:, 2:], conv=nn.Conv2d(3, 4, 1))
    program = quantized(net, *SHAPE)
    assert kinds(program) == ["conv2d", "permute", "reshape", "slice"]
    for layer in quantized_layers(program.exported)[1:]:
        assert layer.input_parameters == (layer.output_parameters,)
    assert program.unquantized == ()


def test_head_of_a_classifier():
    net = Net(
        lambda net, x: net.head(net.conv(x).mean((2, 3))), conv=nn.Conv2d(3, 4, 1), head=nn.Linear(4, 5)
    )
    program = quantized(net, *SHAPE)
    assert kinds(program) == ["conv2d", "mean", "view", "linear"]
    mean = layers_of(program)["mean"]
    assert mean.input_parameters != (mean.output_parameters,)


@pytest.mark.parametrize(
    ("function", "operator", "reason"),
    [
        (lambda net, x: torch.erf(net.conv(x)), "erf", "the engines share no integer kernel"),
        (lambda net, x: net.conv(x).relu() * 2.0, "mul", "one operand is a number"),
        (lambda net, x: net.conv(x).sigmoid() * net.factors, "mul", "a factor for each channel"),
        (lambda _, x: F.conv2d(x, x.mean((0, 2, 3)).view(1, 3, 1, 1)), "conv2d", "computed, not constant"),
        (lambda net, x: net.conv(x).mean(1), "mean", "no mean over height and width"),
        (lambda net, x: x.reshape(1, -1), "view", "its input is in float"),
        (lambda net, x: net.conv(x).erf().flatten(1), "view", "its input is in float"),
        (lambda net, x: torch.erf(x).sigmoid() + net.conv(x), "sigmoid", "its input is in float"),
        (lambda net, x: F.hardswish(torch.erf(x)) + net.conv(x), "hardswish", "its input is in float"),
        (lambda net, x: F.avg_pool2d(x, 2), "avg_pool2d", "its input is in float"),
        (lambda net, x: net.conv(x).max(1)[0], "max", "the engines share no integer kernel"),
        (lambda net, x: net.gru(net.conv(x).flatten(1, 2))[0], "gru", "the engines share no integer kernel"),
        (lambda net, x: net.conv(x) + (x.double() * x.double()).float(), "mul", "in float32"),
        (lambda net, x: net.conv(x) + (x * 100).long().relu().float(), "relu", "in float32"),
    ],
)  # fmt: skip
def test_what_stays_in_float_has_a_reason(function, operator, reason):
    gru = nn.GRU(8, 4, batch_first=True)
    parts = {"conv": nn.Conv2d(3, 3, 1), "gru": gru, "factors": torch.rand(1, 3, 1, 1)}
    program = quantized(Net(function, **parts), *SHAPE)
    rows = [row for row in program.unquantized if row.what.startswith(f"{operator} (")]
    assert len(rows) == 1
    assert reason in rows[0].reason
    assert rows[0].where.startswith("quantized_net.py:")
    assert rows[0].what[len(operator) + 2 : -1] in {node.name for node in program.exported.graph.nodes}


def test_a_concatenation_of_what_was_computed_in_float():
    net = Net(lambda net, x: net.conv(torch.cat([torch.erf(x), torch.sin(x)], 1)), conv=nn.Conv2d(6, 4, 1))
    program = quantized(net, *SHAPE)
    assert kinds(program) == ["cat", "conv2d"]
    (cat,) = (layer for layer in quantized_layers(program.exported) if layer.kind == "cat")
    assert cat.input_parameters == (cat.output_parameters,) * 2


def before_and_after(net, x):
    h = net.conv(x)
    return torch.erf(h) + F.relu(h)


def test_everything_is_a_layer_or_has_a_reason():
    program = quantized(Net(before_and_after, conv=nn.Conv2d(3, 4, 1)), *SHAPE)
    computing = [
        node.name
        for node in program.exported.graph.nodes
        if node.op == "call_function" and "quantize" not in str(node.target)
    ]
    listed = [row.what.partition("(")[2].rstrip(")") for row in program.unquantized]
    inside = [
        part.name
        for layer in quantized_layers(program.exported)
        for part in (layer.padding, layer.compute, layer.clamp)
        if part is not None
    ]
    assert len(listed) == len(set(listed))
    assert set(computing) == {*listed, *inside}


def test_nothing_reads_a_value_before_its_clamp():
    program = quantized(nn.Sequential(nn.Linear(8, 4), nn.ReLU6(), nn.Linear(4, 2)), 2, 8)
    for node in program.exported.graph.nodes:
        if node.target is QUANTIZE:
            assert all(user.target is DEQUANTIZE for user in node.users)
    assert kinds(program) == ["linear", "linear"]
