import pytest
import torch
from check_pass import Net, check_pass, operators, program_of, reasons
from torch import nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from edgecompile.graph_pass import run_pass

X = torch.randn(2, 4, 6, 6)


@pytest.mark.parametrize(
    "function",
    [
        lambda _, x: F.dropout(x, 0.5, training=False),
        lambda _, x: F.dropout2d(x, 0.5, training=False),
        lambda _, x: F.alpha_dropout(x, 0.5, training=False),
        lambda _, x: F.feature_alpha_dropout(x, 0.5, training=False),
        lambda _, x: nn.Identity()(x),
        lambda _, x: x.clone(),
        lambda _, x: x.contiguous(),
        lambda _, x: x.detach(),
        lambda _, x: x.view(-1, 4, 6, 6),
        lambda _, x: x.reshape(x.shape),
        lambda _, x: x.flatten(0, 0),
        lambda _, x: x.squeeze(1),
        lambda _, x: x.expand(-1, -1, -1, -1),
        lambda _, x: x[:, :, 0:],
        lambda _, x: F.pad(x, (0, 0)),
        lambda _, x: x.float(),
        lambda _, x: x.to("cpu"),
        lambda _, x: x.type_as(x),
        lambda _, x: x.to(torch.float32, copy=True),
        lambda _, x: torch.empty_like(x).copy_(x),
        lambda _, x: x.repeat(1, 1, 1, 1),
        lambda _, x: torch.cat([x], 1),
        lambda _, x: x.repeat_interleave(1, 1),
        lambda _, x: 0 + x,
        lambda _, x: sum([x]),
        lambda _, x: x - 0.0,
        lambda _, x: 1 * x,
        lambda _, x: x / 1,
        lambda _, x: x**1,
    ],
)
def test_removes(function):
    outcome = check_pass("remove-noops", Net(lambda net, x: function(net, x * 2) + 1), X)
    assert operators(outcome.program) == ["mul", "add"]
    assert not outcome.declined


def test_removes_with_a_dynamic_batch():
    net = Net(lambda _, x: F.dropout((x * 2).reshape(x.shape).squeeze(1)[:, :, 0:], training=False) + 1)
    assert operators(check_pass("remove-noops", net, X, dynamic_batch=True).program) == ["mul", "add"]


@pytest.mark.parametrize(
    "function",
    [
        lambda _, x: F.pad(x, (1, -1)),  # the shape stays, the values move
        lambda _, x: x[:, 1:],
        lambda _, x: x.double(),
        lambda _, x: x.flatten(1),
        lambda _, x: x.flip(1),
        lambda _, x: x.repeat(1, 1, 1, 2),
        lambda _, x: x.repeat_interleave(2, 1),
        lambda _, x: 1 - x,
        lambda _, x: 1 / x,
        lambda _, x: x**2,
    ],
)
def test_keeps_what_changes_something(function):
    kept = check_pass("remove-noops", Net(lambda net, x: function(net, x * 2) + 1), X).program
    assert len(operators(kept)) == 3


def test_keeps_dropout_in_training():
    program = program_of(Net(lambda _, x: torch.dropout(x, 0.5, True)), X)
    assert operators(run_pass("remove-noops", program).program) == ["dropout"]


def shuffle(_, x):
    return torch.relu((x * 2).view(-1, 2, 2, 6, 6).transpose(1, 2).contiguous()).view(-1, 4, 6, 6)


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_view_after_a_copy_for_the_layout(dynamic):
    outcome = check_pass("remove-noops", Net(shuffle), X, dynamic_batch=dynamic, rewrites=1)
    assert "contiguous" not in operators(outcome.program)
    check_pass("canonicalize-views", outcome.program, X)


def test_declines_an_output_that_would_alias_an_input():
    outcome = check_pass("remove-noops", Net(lambda _, x: (x.clone(), x + 1)), X, rewrites=0)
    assert "must not alias an input" in reasons(outcome)


def test_an_output_that_is_an_input():
    check_pass("remove-noops", Net(lambda _, x: (x, F.dropout(x, training=False) + 1)), X, rewrites=1)


def test_a_copy_before_a_view_of_a_decomposed_program():
    """Writes to views have the whole program decomposed, where `reshape` is a copy and a view of its own."""

    def function(_, x):
        y = x + 1
        y[:, 0] += 1
        return y.permute(0, 2, 3, 1).reshape(2, -1, 2).relu()

    program = check_pass("remove-noops", Net(function), torch.randn(2, 4, 6, 6)).program
    assert "clone" not in operators(program)


def test_keeps_a_copy_into_another_type():
    net = Net(lambda _, x: torch.zeros(2, 4, 6, 6, dtype=torch.double).copy_(x * 2) + 1)
    assert "copy" in operators(check_pass("remove-noops", net, X).program)
