import pytest
import torch
from check_pass import Net, calls, check_pass, operators, reasons
from torch import nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

X = torch.randn(2, 3, 4, 4) * 5


@pytest.mark.parametrize(
    "function",
    [
        lambda _, x: x.clamp(min=0),
        lambda _, x: x.clamp(0.0),
        lambda _, x: torch.clamp_min(x, 0),
        lambda _, x: (x * 1).clamp_(min=0),
        lambda _, x: F.relu(x),
        lambda _, x: F.relu_(x * 1),
    ],
)
def test_relu(function):
    program = check_pass("canonicalize-activations", Net(function), X).program
    assert "relu" in operators(program)
    assert not {"clamp", "clamp_min", "relu_"} & set(operators(program))


@pytest.mark.parametrize(
    ("function", "bounds"),
    [
        (lambda _, x: F.relu6(x), (0, 6)),
        (lambda _, x: F.relu6(x * 1, inplace=True), (0, 6)),
        (lambda _, x: nn.ReLU6()(x), (0, 6)),
        (lambda _, x: x.clamp(-1, 1), (-1, 1)),
        (lambda _, x: x.clamp(0, 1), (0, 1)),
        (lambda _, x: F.hardtanh(x), (-1, 1)),
        (lambda _, x: F.hardtanh(x, -2.0, 3.0), (-2, 3)),
        (lambda _, x: torch.clip(x, min=-1, max=2.5), (-1, 2.5)),
    ],
)
def test_hardtanh(function, bounds):
    program = check_pass("canonicalize-activations", Net(function), X).program
    assert operators(program)[-1] == "hardtanh"
    assert (calls(program, "hardtanh")[0][1:] or (-1, 1)) == bounds


@pytest.mark.parametrize(
    "function", [lambda _, x: x.clamp(max=6), lambda _, x: x.clamp(min=1), lambda _, x: torch.clamp_max(x, 3)]
)
def test_declines_one_bound(function):
    outcome = check_pass("canonicalize-activations", Net(function), X, rewrites=0)
    assert "one bound" in reasons(outcome)


def test_declines_a_tensor_for_a_bound():
    net = Net(lambda net, x: torch.clamp(x, net.low, net.low + 1), low=torch.zeros(1))
    outcome = check_pass("canonicalize-activations", net, X, rewrites=0)
    assert "a bound is a tensor" in reasons(outcome)
    assert outcome.declined[0].where.startswith("check_pass.py:")


def test_declines_integers():
    steps = torch.arange(-4, 4).reshape(1, 8)
    outcome = check_pass("canonicalize-activations", Net(lambda _, x: x.clamp(0, 3)), steps, rewrites=0)
    assert "floating point" in reasons(outcome)
