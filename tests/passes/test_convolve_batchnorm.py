import pytest
import torch
from check_pass import Net, calls, check_pass, operators, reasons, trained
from torch import nn

X = torch.randn(2, 3, 8, 8)


def normalized(layer, function=lambda norm, x: norm(x + 1).relu()):
    (norm,) = trained(layer)
    return Net(lambda net, x: function(net.norm, x), norm=norm)


@pytest.mark.parametrize("dynamic", [False, True])
def test_it_becomes_a_depthwise_convolution(dynamic):
    program = check_pass(
        "convolve-batchnorm", normalized(nn.BatchNorm2d(3)), X, dynamic_batch=dynamic, rewrites=1
    ).program
    assert operators(program) == ["add", "conv2d", "relu"]
    assert calls(program, "conv2d")[0][3:] == ([1, 1], [0, 0], [1, 1], 3)


@pytest.mark.parametrize("shape", [(2, 3, 7), (2, 3)])
def test_other_axes_get_a_view(shape):
    program = check_pass("convolve-batchnorm", normalized(nn.BatchNorm1d(3)), torch.randn(shape), rewrites=1)
    assert operators(program.program) == ["add", "view", "conv2d", "view", "relu"]


def test_one_without_weights():
    check_pass("convolve-batchnorm", normalized(nn.BatchNorm2d(3, affine=False)), X, rewrites=1)


def test_declines_statistics_of_the_batch():
    net = normalized(nn.BatchNorm2d(3, track_running_stats=False))
    outcome = check_pass("convolve-batchnorm", net, X, rewrites=0)
    assert "statistics of the batch" in reasons(outcome)


def test_declines_five_axes():
    net = normalized(nn.BatchNorm3d(3))
    outcome = check_pass("convolve-batchnorm", net, torch.randn(2, 3, 4, 4, 4), rewrites=0)
    assert "four axes" in reasons(outcome)
