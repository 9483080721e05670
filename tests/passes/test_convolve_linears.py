import pytest
import torch
from check_pass import Net, calls, check_pass, operators
from torch import nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

X = torch.randn(2, 6, 4, 5)


def block(net, x):
    """Return what ConvNeXt computes after its depthwise convolution."""
    rows = net.norm(x.permute(0, 2, 3, 1))
    return (net.down(F.gelu(net.up(rows), approximate="tanh")) * net.scale).permute(0, 3, 1, 2)


def parts():
    return {"up": nn.Linear(6, 8), "down": nn.Linear(8, 6, bias=False), "scale": torch.rand(6) + 0.5}


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("norm", [nn.LayerNorm(6), nn.RMSNorm(6)])
def test_linear_layers_after_a_norm_are_convolutions(norm, dynamic):
    net = Net(block, norm=norm, **parts())
    program = check_pass("convolve-linears", net, X, dynamic_batch=dynamic, rewrites=1).program
    name = "layer_norm" if isinstance(norm, nn.LayerNorm) else "rms_norm"
    assert operators(program) == ["permute", name, "permute", "conv2d", "gelu", "conv2d", "mul"]


def test_permutes_around_linear_layers_go():
    net = Net(lambda net, x: net.up(x.permute(0, 2, 3, 1)).relu().permute(0, 3, 1, 2), **parts())
    program = check_pass("convolve-linears", net, X, rewrites=1).program
    assert operators(program) == ["conv2d", "relu"]
    assert calls(program, "conv2d")[0][1].meta["val"].shape == (8, 6, 1, 1)


@pytest.mark.parametrize(
    "function",
    [
        lambda net, x: net.up(x.permute(0, 2, 3, 1)).softmax(-1).permute(0, 3, 1, 2),
        lambda net, x: net.up(x.permute(0, 3, 2, 1)).permute(0, 3, 1, 2),
        lambda net, x: net.up(x.permute(0, 2, 3, 1)).permute(0, 3, 2, 1),
        lambda net, x: (rows := net.up(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2).mean() + rows.sum(),
        lambda net, x: F.relu(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
        lambda net, x: (net.up(x.permute(0, 2, 3, 1)) * x[:1, 0, :, :, None]).permute(0, 3, 1, 2),
    ],
)
def test_what_has_to_be_turned_stays(function):
    check_pass("convolve-linears", Net(function, up=nn.Linear(6, 8)), torch.randn(2, 6, 4, 6), rewrites=0)


def test_what_comes_after_may_lie_otherwise_in_memory():
    net = Net(
        lambda net, x: (
            F.max_pool2d(net.up(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), 3, 1, 1)
            .permute(0, 2, 3, 1)
            .flatten(1)
        ),
        up=nn.Linear(6, 8),
    )
    check_pass("convolve-linears", net, X, rewrites=1)
