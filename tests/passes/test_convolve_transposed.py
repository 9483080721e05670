import pytest
import torch
from check_pass import Net, calls, check_pass, operators, reasons
from torch import nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

X = torch.randn(2, 4, 5, 6)


# Kernel, stride, padding, output padding.
SETTINGS = [
    *((1, 1, 0, 0), (3, 1, 1, 0), (5, 1, 2, 0)),
    *((1, 2, 0, 1), (2, 2, 0, 0), (2, 2, 0, 1), (2, 2, 1, 0), (3, 2, 0, 0), (3, 2, 1, 1), (3, 2, 0, 1)),
    *((4, 2, 1, 0), (4, 2, 2, 1), (5, 2, 2, 1), (2, 3, 0, 2), (3, 3, 1, 2), (4, 3, 0, 0), (5, 3, 2, 1)),
]


@pytest.mark.parametrize("setting", SETTINGS)
def test_any_setting(setting):
    kernel, stride, padding, output = setting
    layer = nn.ConvTranspose2d(4, 6, kernel, stride, padding, output, groups=2)
    program = check_pass("convolve-transposed", layer, X, rewrites=1, tolerance=1e-4).program
    assert not any("transpose" in name for name in operators(program))


@pytest.mark.parametrize("dynamic", [False, True])
def test_it_becomes_a_convolution_and_a_pixel_shuffle(dynamic):
    layer = nn.ConvTranspose2d(4, 6, 2, 2)
    program = check_pass("convolve-transposed", layer, X, dynamic_batch=dynamic, rewrites=1).program
    assert operators(program) == ["conv2d", "pixel_shuffle"]
    assert calls(program, "conv2d")[0][3:] == ([1, 1], [0, 0], [1, 1], 1)


def test_what_padding_cuts_off_is_a_slice():
    program = check_pass("convolve-transposed", nn.ConvTranspose2d(4, 6, 4, 2, 1), X, rewrites=1).program
    assert operators(program) == ["conv2d", "pixel_shuffle", "slice", "slice"]


@pytest.mark.parametrize("dynamic", [False, True])
def test_unequal_strides(dynamic):
    layer = nn.ConvTranspose2d(4, 6, (2, 3), (1, 3), bias=False)
    program = check_pass("convolve-transposed", layer, X, dynamic_batch=dynamic, rewrites=1).program
    assert operators(program) == ["conv2d", "view", "permute", "view"] or "reshape" in operators(program)


@pytest.mark.parametrize("dynamic", [False, True])
def test_one_axis(dynamic):
    layer = nn.ConvTranspose1d(4, 6, 8, 4, 2, groups=2)
    program = check_pass(
        "convolve-transposed", layer, torch.randn(2, 4, 9), dynamic_batch=dynamic, rewrites=1
    ).program
    assert operators(program)[0] == "conv1d"


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(("kernel", "padding", "stride"), [(3, 1, 2), (2, 0, 2), (3, 1, 1)])
def test_a_sum_of_patches(kernel, padding, stride, dynamic):
    count = ((8 + 2 * padding - kernel) // stride + 1) ** 2
    net = Net(lambda net, x: F.fold(x, 8, kernel, padding=padding, stride=stride))
    x = torch.randn(2, 3 * kernel**2, count)
    program = check_pass("convolve-transposed", net, x, dynamic_batch=dynamic, rewrites=1).program
    assert "col2im" not in operators(program)
    assert "conv2d" in operators(program)


def test_declines_a_computed_weight():
    net = Net(lambda net, x: F.conv_transpose2d(x, x[:1, :, :2, :2].permute(1, 0, 2, 3)))
    assert "constant" in reasons(check_pass("convolve-transposed", net, X, rewrites=0))


def test_declines_dilation():
    layer = nn.ConvTranspose2d(4, 6, 2, dilation=2)
    assert "dilat" in reasons(check_pass("convolve-transposed", layer, X, rewrites=0))


def test_declines_dilated_patches():
    net = Net(lambda net, x: F.fold(x, 8, 2, dilation=2))
    x = torch.randn(1, 8, 36)
    assert "dilat" in reasons(check_pass("convolve-transposed", net, x, rewrites=0))


def test_declines_other_types():
    layer = nn.ConvTranspose2d(4, 6, 2).double()
    assert "float32" in reasons(check_pass("convolve-transposed", layer, X.double(), rewrites=0))


def test_declines_what_has_no_batch():
    layer = nn.ConvTranspose2d(4, 6, 2)
    assert "batch" in reasons(check_pass("convolve-transposed", layer, X[0], rewrites=0))
