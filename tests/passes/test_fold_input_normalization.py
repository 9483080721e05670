import pytest
import torch
from check_pass import Net, calls, check_pass, operators, reasons
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

X = torch.rand(2, 3, 8, 8)
MEAN, STD = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3])


def net(function, padding=0, **options):
    conv = nn.Conv2d(3, 4, 3, padding=padding, **options)
    mean, std = MEAN.reshape(3, 1, 1), STD.reshape(1, 3, 1, 1)
    return Net(function, conv=conv, mean=mean, std=std)


@pytest.mark.parametrize(
    "function",
    [
        lambda net, x: net.conv((x - net.mean) / net.std),
        lambda net, x: net.conv((x - 0.5) / 0.25),
        lambda net, x: net.conv(x * 2 - 1),
        lambda net, x: net.conv((x / 255 - net.mean) / net.std),
        lambda net, x: net.conv(2 * x + net.mean),
        lambda net, x: net.conv(net.std * (net.mean + x)),
        lambda net, x: net.conv(x.sub(net.mean).div(net.std)),
    ],
)
@pytest.mark.parametrize("bias", [False, True])
def test_folds_without_padding(function, bias):
    outcome = check_pass("fold-input-normalization", net(function, bias=bias), X, tolerance=1e-4)
    assert operators(outcome.program) == ["conv2d"]
    assert not outcome.declined


def test_only_a_scale_needs_no_padding():
    outcome = check_pass("fold-input-normalization", net(lambda net, x: net.conv(x / net.std), 1), X)
    assert operators(outcome.program) == ["conv2d"]


@pytest.mark.parametrize(
    "function", [lambda net, x: net.conv((x - 0.5) / net.std), lambda net, x: net.conv(x * 4 - 2)]
)
@pytest.mark.parametrize("padding", [1, (2, 1)])
def test_one_mean_and_padding(function, padding):
    outcome = check_pass("fold-input-normalization", net(function, padding), X)
    assert operators(outcome.program) == ["constant_pad_nd", "conv2d"]
    rows, columns = (padding, padding) if isinstance(padding, int) else padding
    _, pads, value = calls(outcome.program, "constant_pad_nd")[0]
    assert (pads, value) == ([columns, columns, rows, rows], pytest.approx(0.5))
    assert not outcome.declined


def test_several_means_and_padding_keep_a_subtraction():
    outcome = check_pass(
        "fold-input-normalization", net(lambda net, x: net.conv((x - net.mean) / net.std), 1), X
    )
    assert operators(outcome.program) == ["sub", "conv2d"]
    assert "a mean that differs" in reasons(outcome)
    assert outcome.declined[0].where.startswith("check_pass.py:")


def read_twice(net, x):
    h = x - 0.5
    return net.conv(h) + h.mean()


@pytest.mark.parametrize(
    ("function", "options", "reason"),
    [
        (read_twice, {}, "read more than once"),
        (lambda net, x: net.conv(F.pad(x - 0.5, (1, 1, 1, 1))), {}, "explicit padding"),
        (lambda net, x: net.conv(torch.exp(x - 0.5)), {}, "no convolution reads it"),
        (lambda net, x: F.conv2d(x - 0.5, net.conv.weight * 2), {}, "is not constant"),
        (lambda net, x: F.conv2d(x - 0.5, net.conv.weight, net.conv.bias * 2), {}, "bias is not constant"),
        (lambda net, x: net.conv(x * 0.0), {}, "multiplies a channel by zero"),
        (lambda net, x: net.conv(x - 0.5), {"padding": "same"}, "is a word"),
    ],
)
def test_declines(function, options, reason):
    outcome = check_pass("fold-input-normalization", net(function, **options), X, rewrites=0)
    assert reason in reasons(outcome)


def test_declines_a_grouped_convolution():
    module = Net(lambda net, x: net.conv(x - 0.5), conv=nn.Conv2d(3, 3, 3, groups=3))
    assert "grouped" in reasons(check_pass("fold-input-normalization", module, X, rewrites=0))


@pytest.mark.parametrize(
    "function",
    [
        lambda net, x: net.conv(x),
        lambda net, x: net.conv(1 - x),
        lambda net, x: net.conv(x - x),
        lambda net, x: net.conv(x - net.mean.reshape(3)[:1].expand(8)[None, None, :, None]),
    ],
)
def test_what_is_no_normalization(function):
    check_pass("fold-input-normalization", net(function), X, rewrites=0)


def test_integer_pixels_are_left_alone():
    module = net(lambda net, x: net.conv(x / 255.0))
    pixels = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8)
    check_pass("fold-input-normalization", module, pixels, rewrites=0)


STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "sub", "mul", "div"]), st.booleans(), st.integers(0, 2**31)),
    min_size=1,
    max_size=4,
)


@settings(max_examples=10)
@given(STEPS, st.sampled_from([0, 1]), st.booleans())
def test_chains_of_affine_steps(steps, padding, bias):
    values = []
    for _, scalar, seed in steps:
        drawn = torch.rand(3, 1, 1, generator=torch.Generator().manual_seed(seed)) + 0.5
        values.append(float(drawn[0]) if scalar else drawn)

    def normalize(module, x):
        for (name, _, _), value in zip(steps, values, strict=True):
            x = getattr(torch, name)(x, value)
        return module.conv(x)

    outcome = check_pass("fold-input-normalization", net(normalize, padding, bias=bias), X, tolerance=1e-3)
    if not padding:
        assert operators(outcome.program) == ["conv2d"]
