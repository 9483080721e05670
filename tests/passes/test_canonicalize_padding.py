import pytest
import torch
from check_pass import Net, calls, check_pass, operators
from torch import nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

X = torch.randn(1, 3, 7, 8)


@pytest.mark.parametrize(
    ("pads", "padding", "expected"),
    [((1, 1, 1, 1), 0, [1, 1]), ((2, 2, 1, 1), 0, [1, 2]), ((1, 1, 1, 1), 1, [2, 2]), ((3, 3), 0, None)],
)
def test_symmetric_padding_moves_into_the_convolution(pads, padding, expected):
    net = nn.Sequential(
        nn.ZeroPad2d(pads) if len(pads) == 4 else nn.Identity(), nn.Conv2d(3, 4, 3, padding=padding)
    )
    if expected is None:
        net = Net(lambda net, x: net.conv(F.pad(x, pads)), conv=nn.Conv2d(3, 4, 3))
    program = check_pass("canonicalize-padding", net, X).program
    if expected is None:
        assert operators(program) == ["constant_pad_nd", "conv2d"]
        return
    assert operators(program) == ["conv2d"]
    assert calls(program, "conv2d")[0][4] == expected


def two_readers(net, x):
    padded = F.pad(x, (1, 1, 1, 1))
    return net.conv(padded) + net.other(padded)


def reader_and_output(net, x):
    padded = F.pad(x, (1, 1, 1, 1), "constant", 0)
    return net.conv(padded), padded


def test_all_readers_are_convolutions():
    net = Net(two_readers, conv=nn.Conv2d(3, 4, 3), other=nn.Conv2d(3, 4, 3))
    assert "constant_pad_nd" not in operators(check_pass("canonicalize-padding", net, X).program)


@pytest.mark.parametrize(
    "function",
    [
        lambda net, x: net.conv(F.pad(x, (0, 1, 0, 1))),
        lambda net, x: net.conv(F.pad(x, (1, 1, 1, 1), value=0.5)),
        reader_and_output,
    ],
)
def test_what_stays_a_node(function):
    outcome = check_pass("canonicalize-padding", Net(function, conv=nn.Conv2d(3, 4, 3)), X, rewrites=1)
    assert "constant_pad_nd" in operators(outcome.program)
    assert "pad" not in operators(outcome.program)


@pytest.mark.parametrize(
    ("conv", "expected"),
    [
        (nn.Conv2d(3, 4, 3, padding="same"), [1, 1]),
        (nn.Conv2d(3, 4, (3, 5), padding="same", dilation=2), [2, 4]),
        (nn.Conv2d(3, 4, 3, padding="valid", stride=2), [0, 0]),
        (nn.Conv2d(3, 4, (2, 3), padding="same"), [0, 0]),
        (nn.Conv2d(3, 4, 4, padding="same"), [0, 0]),
    ],
)
def test_padding_in_words(conv, expected):
    program = check_pass("canonicalize-padding", conv, X).program
    assert calls(program, "conv2d")[0][4] == expected


def test_padding_in_words_1d():
    for kernel in (3, 4):
        check_pass("canonicalize-padding", nn.Conv1d(3, 4, kernel, padding="same"), torch.randn(1, 3, 9))


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_other_modes_stay(mode):
    conv = nn.Conv2d(3, 4, 3, padding=1, padding_mode=mode)
    assert operators(check_pass("canonicalize-padding", conv, X, rewrites=0).program) == ["pad", "conv2d"]


def least_padding(margins, kernel, stride=2, value=-torch.inf):
    return Net(lambda _, x: F.max_pool2d(F.pad(x, margins, value=value), kernel, stride))


@pytest.mark.parametrize(
    ("margins", "kernel", "expected"),
    [
        ((1, 1, 1, 1), 3, ["max_pool2d"]),
        ((1, 1), (1, 3), ["max_pool2d"]),
        ((0, 1, 0, 1), 3, ["slice", "cat", "slice", "cat", "max_pool2d"]),
        ((1, 2, 0, 0), (1, 5), ["slice", "cat", "slice", "cat", "slice", "cat", "max_pool2d"]),
    ],
)
def test_padding_before_a_maximum(margins, kernel, expected):
    net = least_padding(margins, kernel)
    assert operators(check_pass("canonicalize-padding", net, X).program) == expected


@pytest.mark.parametrize(
    "net",
    [
        least_padding((1, 1, 1, 1), 3, value=-1.0),
        least_padding((0, 3, 0, 0), 3, stride=1),  # the last window is padding alone
        least_padding((3, 0, 0, 0), 3, stride=1),
        least_padding((2, 3, 2, 3), 6, stride=1),  # five copies
        least_padding((1, 1, 1, 1, 1, 1), 3),  # of channels too
        Net(lambda _, x: F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-torch.inf), 3, 2, 1)),
    ],
)
def test_padding_that_stays_before_a_maximum(net):
    program = check_pass("canonicalize-padding", net, X, rewrites=1).program  # `pad` by its other name
    assert operators(program) == ["constant_pad_nd", "max_pool2d"]


@pytest.mark.parametrize(
    ("pads", "expected"),
    [
        ((-1, -2), ["slice"]),
        ((-1, 2, 0, -3), ["slice", "slice", "constant_pad_nd"]),
        ((0, 0, -1, 0, 2, -1), ["slice", "slice", "constant_pad_nd"]),
    ],
)
@pytest.mark.parametrize("dynamic", [False, True])
def test_padding_by_less_than_nothing_is_a_slice(pads, expected, dynamic):
    net = Net(lambda _, x: F.pad(x, pads, value=0.5).relu())
    program = check_pass("canonicalize-padding", net, torch.rand(2, 4, 8, 8), dynamic_batch=dynamic).program
    assert operators(program) == [*expected, "relu"]
