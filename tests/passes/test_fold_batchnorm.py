import pytest
import torch
from check_pass import Net, calls, check_pass, operators, program_of, reasons, run_program, trained
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

LAYERS = [
    (nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), torch.randn(2, 3, 8)),
    (nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), torch.randn(2, 3, 6, 6)),
    (nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4), torch.randn(2, 4, 6, 6)),
    (nn.Conv2d(3, 4, 3, padding="same"), nn.BatchNorm2d(4, affine=False), torch.randn(2, 3, 6, 6)),
    (nn.Conv3d(2, 4, 2), nn.BatchNorm3d(4), torch.randn(1, 2, 4, 4, 4)),
    (nn.ConvTranspose1d(3, 4, 3), nn.BatchNorm1d(4), torch.randn(2, 3, 5)),
    (nn.ConvTranspose2d(3, 4, 2, stride=2, bias=False), nn.BatchNorm2d(4), torch.randn(1, 3, 5, 5)),
    (nn.ConvTranspose3d(2, 3, 2), nn.BatchNorm3d(3), torch.randn(1, 2, 3, 3, 3)),
    (nn.Linear(5, 4), nn.BatchNorm1d(4), torch.randn(2, 5)),
    (nn.Linear(5, 4, bias=False), nn.BatchNorm1d(4, eps=0.1), torch.randn(2, 5)),
]


@pytest.mark.parametrize(("layer", "norm", "x"), LAYERS, ids=lambda value: type(value).__name__)
def test_folds(layer, norm, x):
    outcome = check_pass("fold-batchnorm", trained(layer, norm), x, rewrites=1)
    assert "batch_norm" not in operators(outcome.program)
    assert not outcome.declined


def test_the_weights_are_rounded_once():
    net = trained(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    program = check_pass("fold-batchnorm", net, torch.randn(1, 2, 3, 3)).program
    conv, norm = net
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    weight = (conv.weight.double() * scale.reshape(-1, 1, 1, 1)).float()
    bias = ((conv.bias.double() - norm.running_mean) * scale + norm.bias).float()
    assert torch.equal(program.state_dict[calls(program, "conv2d")[0][1].name], weight)
    assert torch.equal(program.state_dict[calls(program, "conv2d")[0][2].name], bias)


def test_a_weight_that_two_layers_share():
    conv, norms = nn.Conv2d(3, 3, 1), trained(nn.BatchNorm2d(3), nn.BatchNorm2d(3))
    net = Net(lambda net, x: net.norms[1](net.conv(net.norms[0](net.conv(x)))), conv=conv, norms=norms)
    assert "batch_norm" not in operators(
        check_pass("fold-batchnorm", net, torch.randn(1, 3, 4, 4), rewrites=2).program
    )


def test_an_input_called_as_a_builtin():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = trained(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))

        def forward(self, input):
            return self.layers(input)

    check_pass("fold-batchnorm", Net(), torch.randn(1, 3, 4, 4), rewrites=1)


def conv_twice(net, x):
    h = net.conv(x)
    return net.norm(h) + h


def computed_weight(net, x):
    return net.norm(F.conv2d(x, x.mean((2, 3), True)))


def computed_bias(net, x):
    return net.norm(F.conv2d(x, net.w, x.mean((0, 2, 3))))


@pytest.mark.parametrize(
    ("net", "reason"),
    [
        (Net(conv_twice, conv=nn.Conv2d(4, 4, 1), norm=nn.BatchNorm2d(4)), "is used elsewhere too"),
        (nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4)), "no convolution or linear layer"),
        (nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)), "of the batch"),
        (nn.Sequential(nn.ConvTranspose2d(4, 4, 2, groups=2), nn.BatchNorm2d(4)), "grouped transposed"),
        (Net(computed_weight, norm=nn.BatchNorm2d(1)), "is computed, not constant"),
        (Net(computed_bias, w=torch.randn(4, 4, 1, 1), norm=nn.BatchNorm2d(4)), "bias of conv2d is computed"),
        (
            Net(
                lambda net, x: F.batch_norm(net.conv(x), net.zero, net.one, net.one * 3),
                conv=nn.Conv2d(4, 4, 1), zero=torch.zeros(4), one=torch.ones(4),
            ),
            "its weight, bias or statistics are computed",
        ),
    ],
)  # fmt: skip
def test_declines(net, reason):
    outcome = check_pass("fold-batchnorm", net, torch.randn(1, 4, 4, 4), rewrites=0)
    assert reason in reasons(outcome)
    assert "batch_norm" in operators(outcome.program)


def test_declines_another_axis():
    net = trained(nn.Linear(4, 5), nn.BatchNorm1d(3))
    outcome = check_pass("fold-batchnorm", net, torch.randn(2, 3, 4), rewrites=0)
    assert "another axis" in reasons(outcome)


@settings(max_examples=8)
@given(st.integers(1, 3), st.integers(1, 4), st.sampled_from([1, 3]), st.booleans(), st.integers(0, 2**31))
def test_folding_is_exact_in_float64(groups, width, kernel, bias, seed):
    torch.manual_seed(seed)
    channels = groups * width
    net = trained(
        nn.Conv2d(groups * 2, channels, kernel, groups=groups, bias=bias), nn.BatchNorm2d(channels)
    ).double()
    x = torch.randn(1, groups * 2, 5, 5, dtype=torch.float64)
    check_pass("fold-batchnorm", net, x, rewrites=1, tolerance=1e-11)


def test_declines_nothing_without_batchnorm():
    program = program_of(nn.ReLU(), torch.randn(2, 2))
    assert not check_pass("fold-batchnorm", program, torch.randn(2, 2), rewrites=0).declined
    assert run_program(program, -torch.ones(2, 2))[0].sum() == 0
