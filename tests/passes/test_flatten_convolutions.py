import pytest
import torch
from check_pass import Net, check_pass, operators, reasons
from torch import nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

X = torch.randn(2, 4, 5, 6, 7)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv3d(4, 6, (3, 3, 1), padding=(1, 1, 0)),
        nn.Conv3d(4, 6, (3, 1, 2), (2, 1, 3), (1, 0, 1), bias=False),
        nn.Conv3d(4, 6, (1, 3, 3), dilation=(1, 2, 1), groups=2),
        nn.Conv3d(4, 6, 1),
    ],
)
def test_an_axis_without_a_kernel_joins_the_batch(layer, dynamic):
    program = check_pass("flatten-convolutions", layer, X, dynamic_batch=dynamic, rewrites=1).program
    assert "conv2d" in operators(program)
    assert "conv3d" not in operators(program)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv3d(4, 6, 3),
        nn.Conv3d(4, 6, (1, 3, 3), (2, 1, 1)),
        nn.Conv3d(4, 6, (1, 3, 3), padding=(1, 0, 0)),
    ],
)
def test_declines_three_axes(layer):
    assert "three axes" in reasons(check_pass("flatten-convolutions", layer, X, rewrites=0))


def test_declines_a_computed_weight():
    net = Net(lambda net, x: F.conv3d(x, x[:1, :, :1, :2, :2]))
    assert "constant" in reasons(check_pass("flatten-convolutions", net, X, rewrites=0))


def test_declines_what_has_no_batch():
    assert "batch" in reasons(check_pass("flatten-convolutions", nn.Conv3d(4, 6, 1), X[0], rewrites=0))
