import pytest
import torch
from check_pass import Net, calls, check_pass, operators, reasons
from torch import nn

X = torch.randn(2, 5, 8) + 0.3
WEIGHT, BIAS = nn.Parameter(torch.rand(8) + 0.5), nn.Parameter(torch.randn(8))


def centred(x):
    return x - x.mean(-1, keepdim=True)


LAYER_NORMS = [
    lambda x: centred(x) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt(),
    lambda x: (x - x.mean(-1, True)) * torch.rsqrt(((x - x.mean(-1, True)) ** 2).mean(-1, True) + 1e-6),
    lambda x: centred(x) / torch.sqrt((x * x).mean(-1, keepdim=True) - x.mean(-1, keepdim=True) ** 2 + 1e-3),
]
RMS_NORMS = [
    lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6),
    lambda x: x / torch.sqrt((x * x).sum(-1, keepdim=True) / 8 + 1e-5),
]


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("function", LAYER_NORMS)
def test_layer_norm(function, dynamic):
    net = Net(lambda net, x: function(torch.sin(x)) * net.weight + net.bias, weight=WEIGHT, bias=BIAS)
    program = check_pass("recognize-norms", net, X, dynamic_batch=dynamic, rewrites=1).program
    assert operators(program) == ["sin", "layer_norm"]
    assert calls(program, "layer_norm")[0][1] == [8]


@pytest.mark.parametrize("function", RMS_NORMS)
def test_rms_norm(function):
    net = Net(lambda net, x: net.weight * function(torch.sin(x)) + net.bias, weight=WEIGHT, bias=BIAS)
    program = check_pass("recognize-norms", net, X, rewrites=1).program
    assert operators(program) == ["sin", "rms_norm", "add"]


def test_without_weights():
    program = check_pass("recognize-norms", Net(lambda _, x: LAYER_NORMS[0](x)), X, rewrites=1).program
    assert operators(program) == ["layer_norm"]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: centred(x) / (x.var(-1, keepdim=True) + 1e-5).sqrt(),
        lambda x: centred(x) / (x.std(-1, keepdim=True) + 1e-5),
        lambda x: (x - x.mean(1, True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt(),
        lambda x: x / (x.abs().mean(-1, keepdim=True) + 1e-5),
        lambda x: x * x.mean(-1, keepdim=True),
    ],
)
def test_other_normalizations_stay(function):
    check_pass("recognize-norms", Net(lambda _, x: function(x)), X, rewrites=0)


def test_declines_parts_that_are_read_elsewhere():
    def function(_, x):
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        return x * scale + scale

    check_pass("recognize-norms", Net(function), X, rewrites=0)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("affine", [False, True])
def test_an_instance_norm_is_a_group_norm(affine, dynamic):
    layer = nn.InstanceNorm2d(3, affine=affine, eps=1e-3)
    x = torch.randn(2, 3, 4, 5)
    program = check_pass("recognize-norms", layer, x, dynamic_batch=dynamic, rewrites=1).program
    assert operators(program) == ["group_norm"]


def test_declines_running_statistics():
    layer = nn.InstanceNorm2d(3, track_running_stats=True).eval()
    outcome = check_pass("recognize-norms", layer, torch.randn(2, 3, 4, 5), rewrites=0)
    assert "running statistics" in reasons(outcome)


def test_what_comes_after_an_instance_norm_may_lie_otherwise_in_memory():
    net = Net(lambda net, x: net.norm(x.permute(0, 3, 1, 2)).relu().flatten(1), norm=nn.InstanceNorm2d(5))
    check_pass("recognize-norms", net, torch.randn(2, 3, 4, 5), rewrites=1)
