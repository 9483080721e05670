import pytest
import torch
from check_pass import Net, calls, check_pass, operators, program_of, reasons

from edgecompile.graph_pass import run_pass

X = torch.randn(2, 4, 6)
WEIGHT, BIAS = torch.randn(6, 5), torch.randn(5)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(
    "function",
    [
        lambda net, x: x @ net.weight,
        lambda net, x: torch.mm(x[:, 0], net.weight),
        lambda net, x: x[:, None] @ net.weight,
    ],
)
def test_products_with_a_constant(function, dynamic):
    net = Net(function, weight=WEIGHT)
    program = check_pass("recognize-linear", net, X, dynamic_batch=dynamic, rewrites=1).program
    assert "linear" in operators(program)
    assert len(calls(program, "linear")[0]) == 2


def test_products_with_a_bias():
    net = Net(lambda net, x: torch.addmm(net.bias, x[:, 0], net.weight), weight=WEIGHT, bias=BIAS)
    program = check_pass("recognize-linear", net, X, rewrites=1).program
    assert len(calls(program, "linear")[0]) == 3


def test_computed_products_stay():
    outcome = check_pass("recognize-linear", Net(lambda _, x: x @ x.mT), X, rewrites=0)
    assert not outcome.declined


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda net, x: net.weight.T @ x.mT, "matrix on the right"),
        (lambda net, x: x @ net.bias.expand(2, 6, 5).clone(), "matrix on the right"),
        (lambda net, x: torch.addmm(net.bias, x[:, 0], net.weight, alpha=2), "no row of constants"),
        (lambda net, x: torch.addmm(x[:, 0, :5], x[:, 0], net.weight), "no row of constants"),
        (lambda net, x: x.double() @ net.weight.double(), "float32"),
    ],
)
def test_declines(function, reason):
    net = Net(function, weight=WEIGHT, bias=BIAS)
    program = run_pass("fold-constants", program_of(net, X)).program
    assert reason in reasons(check_pass("recognize-linear", program, X, rewrites=0))
