import math

import pytest
import torch
from check_pass import Net, calls, check_pass, operators
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

X = 4 * torch.randn(2, 3, 8)

WRITTEN = {
    "silu": [
        lambda x: x * torch.sigmoid(x),
        lambda x: x / (1 + torch.exp(-x)),
        lambda x: torch.sigmoid(x).mul(x),
    ],
    "hardswish": [
        lambda x: x * F.relu6(x + 3) / 6,
        lambda x: x * (F.relu6(x + 3.0) / 6.0),
        lambda x: x * F.hardsigmoid(x),
        lambda x: x * (x + 3).clamp(0, 6) * (1 / 6),
    ],
    "hardsigmoid": [lambda x: F.relu6(x + 3) / 6, lambda x: (x / 6 + 0.5).clamp(0, 1)],
    "gelu": [
        lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
        lambda x: x * 0.5 * (1.0 + torch.erf(x * 0.7071067811865476)),
        lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        lambda x: 0.5 * x * (1 + torch.tanh(0.7978845608 * x * (1 + 0.044715 * x * x))),
    ],
    "mish": [lambda x: x * torch.tanh(F.softplus(x))],
    "sigmoid": [lambda x: 1 / (1 + torch.exp(-x))],
    "hardtanh": [lambda x: F.relu(x).clamp_max(6)],
    "relu": [lambda x: torch.where(x > 0, x, 0.0), lambda x: torch.where(x <= 0, 0.0, x)],
    "leaky_relu": [
        lambda x: torch.where(x >= 0, x, x * 0.1),
        lambda x: torch.where(x < 0, 0.3 * x, x),
        lambda x: torch.maximum(x, x * 0.05),
        lambda x: torch.max(x / 8, x),
    ],
}


@pytest.mark.parametrize(
    ("name", "function"), [(name, function) for name, forms in WRITTEN.items() for function in forms]
)
def test_an_activation_from_its_parts(name, function):
    # What comes before is no part of it, even where it could be.
    net = Net(lambda _, x: torch.sin(function(torch.sin(x) + x)))
    program = check_pass("recognize-activations", net, X, rewrites=1).program
    assert operators(program) == ["sin", "add", name, "sin"]


def test_which_gelu_it_is():
    tanh = WRITTEN["gelu"][2]
    program = check_pass("recognize-activations", Net(lambda _, x: tanh(x)), X, rewrites=1).program
    (node,) = (node for node in program.graph.nodes if node.op == "call_function")
    assert node.kwargs == {"approximate": "tanh"}


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * torch.sigmoid(1.702 * x),
        lambda x: x * F.relu6(x + 2) / 6,
        lambda x: x * torch.sigmoid(x.flip(-1)),
        lambda x: x[:, :1] * torch.sigmoid(x),
        lambda x: (x * 0.5).relu() + 1,
        lambda x: torch.where(x > 0.5, x, 0.0),
        lambda x: torch.where(x > 0, 2 * x, 0.0),
        lambda x: torch.maximum(x, -x),
    ],
)
def test_other_functions_stay(function):
    check_pass("recognize-activations", Net(lambda _, x: function(x)), X, rewrites=0)


def test_declines_parts_that_are_read_elsewhere():
    def function(_, x):
        gate = torch.sigmoid(x)
        return x * gate + gate.flip(-1)

    program = check_pass("recognize-activations", Net(function), X, rewrites=0).program
    assert calls(program, "sigmoid")


def test_the_slope_of_a_leaky_relu():
    net = Net(lambda _, x: torch.where(x > 0, x, 0.1 * x))
    program = check_pass("recognize-activations", net, X, rewrites=1).program
    assert calls(program, "leaky_relu")[0][1:] == (0.1,)
