import pytest
import torch
from check_pass import Net, check_pass, operators, reasons
from torch import nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

X = torch.randn(2, 3, 8, 8)
CHANNELS = nn.Parameter(torch.rand(4, 1, 1) + 0.5)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("function", "rewrites"),
    [
        (lambda net, x: net.conv(x) * net.channels, 1),
        (lambda net, x: net.channels * net.conv(x) + 1, 2),
        (lambda net, x: net.conv(x) / net.channels - net.channels, 2),
        (lambda net, x: net.conv(x) * 2.5, 1),
        (lambda net, x: 3 + net.conv(x) * net.channels, 2),
        (lambda net, x: net.conv(x) / 4, 1),
    ],
)
def test_factors_and_offsets_of_a_convolution(function, rewrites, bias):
    net = Net(function, conv=nn.Conv2d(3, 4, 3, padding=1, bias=bias), channels=CHANNELS)
    program = check_pass("fold-scales", net, X, rewrites=rewrites).program
    assert "conv2d" in operators(program)
    assert not {"mul", "div", "add", "sub"} & set(operators(program))


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(
    "function",
    [
        lambda net, x: net.linear(x).view(-1, 24, 2, 4).transpose(1, 2) * 0.5,
        lambda net, x: net.linear(x).unflatten(-1, (2, 4)).permute(0, 1, 3, 2, 4) / 2 - 1,
        lambda net, x: net.conv(x).flatten(2).transpose(1, 2) * net.one,
    ],
)
def test_one_factor_of_a_view_of_a_layer(function, dynamic):
    net = Net(function, linear=nn.Linear(8, 8), conv=nn.Conv2d(3, 4, 3), one=nn.Parameter(torch.rand(1, 1)))
    program = check_pass("fold-scales", net, X, dynamic_batch=dynamic).program
    assert not {"mul", "div", "sub"} & set(operators(program))


@pytest.mark.parametrize(
    "function",
    [
        lambda net, x: (
            net.linear(x).view(-1, 24, 8) * net.scale
        ),  # a factor for each feature, which may lie apart
        lambda net, x: net.linear(x).mean(1) * 0.5,
        lambda net, x: net.linear(x).flatten(2) * net.wide,
    ],
)
def test_other_factors_of_views_stay(function):
    scale, wide = nn.Parameter(torch.rand(8)), nn.Parameter(torch.rand(1, 1, 1, 1))
    check_pass("fold-scales", Net(function, linear=nn.Linear(8, 8), scale=scale, wide=wide), X, rewrites=0)


def test_declines_a_view_that_is_read_elsewhere():
    def function(net, x):
        value = net.linear(x).transpose(1, 2)
        return (value * 0.5).mT + value.mT

    outcome = check_pass("fold-scales", Net(function, linear=nn.Linear(8, 8)), X, rewrites=0)
    assert reasons(outcome) == "the value of transpose is used elsewhere too"


@pytest.mark.parametrize("dynamic", [False, True])
def test_layer_scale_of_tokens(dynamic):
    net = Net(
        lambda net, x: x + net.linear(x) * net.scale,
        linear=nn.Linear(8, 8),
        scale=nn.Parameter(torch.rand(8)),
    )
    program = check_pass("fold-scales", net, X, dynamic_batch=dynamic, rewrites=1).program
    assert operators(program) == ["linear", "add"]


@pytest.mark.parametrize(
    "function",
    [
        lambda net, x: 1 - net.conv(x),
        lambda net, x: 2 / net.conv(x),
        lambda net, x: net.conv(x) * net.row,
        lambda net, x: net.conv(x) * x.mean(),
        lambda net, x: net.conv(x)[:, :1] * net.channels,
    ],
)
def test_what_is_no_scale_of_a_feature_stays(function):
    row = nn.Parameter(torch.rand(8))
    net = Net(function, conv=nn.Conv2d(3, 4, 3, padding=1), channels=CHANNELS, row=row)
    check_pass("fold-scales", net, X, rewrites=0)


def test_declines_a_layer_that_is_read_elsewhere():
    def function(net, x):
        value = net.conv(x)
        return value * net.channels + value.relu()

    outcome = check_pass(
        "fold-scales", Net(function, conv=nn.Conv2d(3, 4, 1), channels=CHANNELS), X, rewrites=0
    )
    assert "used elsewhere" in reasons(outcome)


def test_declines_a_computed_weight():
    net = Net(lambda _, x: torch.nn.functional.linear(x, x[0, 0]) * 2)
    outcome = check_pass("fold-scales", net, X, rewrites=0)
    assert "computed, not constant" in reasons(outcome)


@pytest.mark.parametrize(
    ("function", "rewrites"),
    [
        (lambda net, x: net.conv(x.relu() * net.three), 1),
        (lambda net, x: net.conv(net.three * x.relu() / 3), 2),
        (lambda net, x: net.one(x.relu() * net.three + net.three), 2),
        (lambda net, x: net.one(x.relu() - 1.5), 1),
        (lambda net, x: net.grouped(x.repeat(1, 2, 1, 1).relu() / net.six - net.six), 2),
        (lambda net, x: net.rows(x.relu() * net.row + net.row), 2),
        (lambda net, x: net.conv(h := x.relu() * net.three) + net.other(h), 1),
        (lambda net, x: net.one((h := x.sin() * 1.5).relu()) + net.one(F.avg_pool2d(h, 3, 1, 1)), 1),
        (lambda net, x: net.conv(F.avg_pool2d(x.sin() * net.minus, 2)), 1),
        (lambda net, x: net.conv(F.max_pool2d(x.sin() * net.three, 2).relu()), 1),
    ],
)
@pytest.mark.parametrize("bias", [False, True])
def test_factors_and_offsets_before_layers(function, rewrites, bias):
    net = Net(
        function,
        conv=nn.Conv2d(3, 4, 3, padding=1, bias=bias),
        other=nn.Conv2d(3, 4, 5, padding=2, groups=1, bias=bias),
        one=nn.Conv2d(3, 4, 2, stride=2, bias=bias),
        grouped=nn.Conv2d(6, 4, 3, groups=2, bias=bias),
        rows=nn.Linear(8, 5, bias=bias),
        three=torch.rand(3, 1, 1) + 0.5,
        minus=-torch.rand(3, 1, 1),
        six=torch.rand(6, 1, 1) + 0.5,
        row=torch.rand(8) + 0.5,
    )
    program = check_pass("fold-scales", net, X, rewrites=rewrites).program
    assert not {"mul", "div", "sub"} & set(operators(program))


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda net, x: net.conv(x.relu() + net.three), "pads it with zeros"),
        (
            lambda net, x: net.conv(h := x.relu() * net.three) + h[:, :1],
            "something else than layers",
        ),
    ],
)
def test_declines_before_layers(function, expected):
    net = Net(function, conv=nn.Conv2d(3, 4, 3, padding=1), three=torch.rand(3, 1, 1))
    assert expected in reasons(check_pass("fold-scales", net, X, rewrites=0))
