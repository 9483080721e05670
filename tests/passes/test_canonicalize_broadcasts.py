import pytest
import torch
from check_pass import Net, calls, check_pass, operators, reasons

from edgecompile.quantize.layers import constants_of

X = torch.randn(2, 3, 4, 5)


def gated(x):
    return x.mean((2, 3), keepdim=True).sigmoid()


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(
    "function",
    [
        lambda _, x: x * gated(x).expand_as(x),
        lambda _, x: gated(x).expand(-1, -1, 4, 5) + x,
        lambda _, x: x - gated(x).expand_as(x),
    ],
)
def test_an_operator_broadcasts_by_itself(function, dynamic):
    program = check_pass(
        "canonicalize-broadcasts", Net(function), X, dynamic_batch=dynamic, rewrites=1
    ).program
    assert not {"expand", "expand_as"} & set(operators(program))


def test_a_copy_that_is_needed_is_an_expand():
    net = Net(lambda _, x: torch.cat([gated(x).expand_as(x), x], 1))
    program = check_pass("canonicalize-broadcasts", net, X, rewrites=1).program
    assert calls(program, "expand")[0][1] == [2, 3, 4, 5]


def test_two_small_operands_stay_copied():
    net = Net(lambda _, x: gated(x).expand(2, 3, 4, 5) * gated(x).tanh())
    check_pass("canonicalize-broadcasts", net, X, rewrites=0)


@pytest.mark.parametrize("axis", [0, 2, -1])
def test_a_stack_is_a_concatenation(axis):
    net = Net(lambda _, x: torch.stack([x, x.tanh(), x * 2], axis))
    program = check_pass("canonicalize-broadcasts", net, X, rewrites=1).program
    assert operators(program) == ["tanh", "mul", "view", "view", "view", "cat"]


@pytest.mark.parametrize("value", [1, 0.5])
def test_addcmul_is_a_product_and_a_sum(value):
    net = Net(lambda _, x: torch.addcmul(x, x.tanh(), x + 1, value=value))
    program = check_pass("canonicalize-broadcasts", net, X, rewrites=1).program
    assert "addcmul" not in operators(program)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda _, x: x.repeat(1, 2, 1, 3), ["view", "expand", "view"]),
        (lambda _, x: x.repeat(3, 1, 1, 1, 1), ["view", "expand"]),
        (lambda _, x: x.repeat(2, 1, 1, 1), ["view", "expand", "view"]),
        (lambda _, x: gated(x).repeat(1, 1, 2, 3), ["mean", "sigmoid", "expand"]),
        (lambda _, x: x.repeat_interleave(2, 1), ["view", "expand", "view"]),
        (lambda _, x: x.repeat_interleave(3, dim=-1), ["view", "expand", "view"]),
        (lambda _, x: x.repeat_interleave(2, 0), ["view", "expand", "view"]),
        (lambda _, x: gated(x).repeat_interleave(3, 2), ["mean", "sigmoid", "expand"]),
    ],
)
def test_copies_are_expanded(function, expected, dynamic):
    program = check_pass("canonicalize-broadcasts", Net(function), X, dynamic_batch=dynamic).program
    kinds = ["view" if name == "reshape" else name for name in operators(program)]
    assert kinds == expected


@pytest.mark.parametrize("function", [lambda _, x: x.repeat_interleave(2), lambda _, x: x.repeat(0, 1, 1, 1)])
def test_copies_that_stay(function):
    check_pass("canonicalize-broadcasts", Net(function), X, rewrites=0)


def square(_, x):
    rows = x.flatten(1)
    products = rows @ rows.permute(1, 0)
    return torch.stack([products, products.tanh()], 1)


def test_declines_a_stack_of_two_dynamic_sizes():
    outcome = check_pass("canonicalize-broadcasts", Net(square), X, dynamic_batch=True, rewrites=0)
    assert "more than one size of its result is dynamic" in reasons(outcome)


def test_a_constant_without_axes_gets_one():
    net = Net(lambda net, x: x * net.scale + net.scale, scale=torch.tensor(1.5))
    program = check_pass("canonicalize-broadcasts", net, torch.randn(2, 3), rewrites=2).program
    assert [value.shape for value in constants_of(program).values()] == [(1,), (1,)]


def test_a_constant_without_axes_stays_beside_another():
    net = Net(lambda net, x: x + x.sum() * net.scale, scale=torch.tensor(1.5))
    check_pass("canonicalize-broadcasts", net, torch.randn(2, 3), rewrites=0)
