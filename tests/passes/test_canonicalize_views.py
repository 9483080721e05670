import pytest
import torch
from check_pass import Net, calls, check_pass, operators, program_of, reasons
from torch.export import Dim, export

from edgecompile.graph_edit import same_shape

X = torch.randn(2, 4, 1, 1)
Y = torch.randn(2, 4, 3, 5)


@pytest.mark.parametrize(
    "function",
    [
        lambda _, x: x.squeeze(-1).flatten(1),
        lambda _, x: x.squeeze().unsqueeze(0).squeeze(0),
        lambda _, x: x.flatten(1),
        lambda _, x: x.reshape(x.shape[0], -1),
        lambda _, x: x.view(x.shape[0], 4),
        lambda _, x: x.flatten(1).unflatten(1, (2, 2)).flatten(1),
        lambda _, x: x.squeeze((2, 3)),
    ],
)
@pytest.mark.parametrize("dynamic", [False, True])
def test_one_view(function, dynamic):
    program = check_pass("canonicalize-views", Net(function), X, dynamic_batch=dynamic).program
    assert operators(program) == ["view"]
    assert calls(program, "view")[0][1] == [-1 if dynamic else 2, 4]


@pytest.mark.parametrize(
    "function",
    [
        lambda _, x: (x * 2).permute(0, 2, 3, 1).permute(0, 3, 1, 2),
        lambda _, x: (x * 2).permute(0, 2, 3, 1).transpose(1, 3).transpose(2, 3),
        lambda _, x: (x * 2).transpose(1, 2).transpose(-2, 1),
        lambda _, x: (x * 2).permute(0, 1, 2, 3),
        lambda _, x: (x * 2).permute(0, -3, -2, -1),
        lambda _, x: (x * 2).flatten(1).view(-1, 4, 3, 5),
    ],
)
@pytest.mark.parametrize("dynamic", [False, True])
def test_what_changes_nothing_goes(function, dynamic):
    program = check_pass("canonicalize-views", Net(function), Y, dynamic_batch=dynamic).program
    assert operators(program) == ["mul"]


def test_permutes_merge():
    program = check_pass(
        "canonicalize-views", Net(lambda _, x: x.transpose(1, -1).permute(1, 0, 2, 3)), Y
    ).program
    assert operators(program) == ["permute"]
    assert calls(program, "permute")[0][1] == [3, 0, 2, 1]


def test_a_matrix_is_transposed_by_a_permute():
    program = check_pass("canonicalize-views", Net(lambda _, x: x.t()), torch.randn(2, 3)).program
    assert operators(program) == ["permute"]


@pytest.mark.parametrize("dynamic", [False, True])
def test_after_a_permute_the_view_may_copy(dynamic):
    net = Net(lambda _, x: x.permute(0, 2, 3, 1).reshape(x.shape[0], -1) * 2)
    program = check_pass("canonicalize-views", net, Y, dynamic_batch=dynamic).program
    assert operators(program) == ["permute", "reshape", "mul"]


@pytest.mark.parametrize(
    "function", [lambda _, x: x.view(x.shape), lambda _, x: x.permute(0, 3, 1, 2).permute(0, 2, 3, 1)]
)
def test_an_output_does_not_alias_an_input(function):
    program = check_pass("canonicalize-views", Net(function), Y).program
    assert len(operators(program)) == 1


def test_equal_by_accident_is_not_equal():
    # The dynamic batch is shown as 2, which is also the number of columns here.
    program = program_of(Net(lambda _, x: x.t()), torch.randn(2, 2), dynamic_batch=True)
    source, transposed, _ = program.graph.nodes
    assert same_shape(source, source)
    assert not same_shape(source, transposed)


def inner_view(_, x):
    h = (x * 1).flatten(1)
    return h.view(2, 2, 3), h * 2


def test_the_inner_view_stays_for_others():
    program = check_pass("canonicalize-views", Net(inner_view), torch.randn(2, 2, 3)).program
    assert operators(program).count("view") == 1


def test_declines_two_dynamic_sizes():
    size = {0: Dim("n", min=2, max=9), 1: Dim("t", min=2, max=9)}
    net = Net(lambda _, x: x.unsqueeze(-1) * 2)
    program = export(net, (torch.randn(3, 4),), dynamic_shapes=(size,))
    outcome = check_pass("canonicalize-views", program, torch.randn(3, 4), rewrites=0)
    assert "more than one size of its result is dynamic" in reasons(outcome)


def test_the_program_has_no_dead_sizes():
    program = program_of(Net(lambda _, x: x.view(x.shape[0], -1)), X, dynamic_batch=True)
    assert "sym_size" in str(program.graph)
    assert "sym_size" not in str(check_pass("canonicalize-views", program, X).program.graph)
