import torch
from check_pass import Net, check_pass, operators, program_of, reasons
from torch import nn

from edgecompile.graph_pass import run_pass

X = torch.randn(2, 3, 4, 4)


def test_expressions_of_constants():
    net = Net(lambda net, x: x - net.mean.view(1, 3, 1, 1).expand(1, 3, 4, 4).clone() * 2, mean=torch.rand(3))
    assert operators(check_pass("fold-constants", net, X).program) == ["sub"]


def test_what_starts_from_nothing():
    net = Net(lambda _, x: x + torch.arange(4, dtype=torch.float32) + torch.ones(4, 1) * 3)
    assert operators(check_pass("fold-constants", net, X).program) == ["add", "add"]


def test_computed_weights():
    net = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    assert operators(check_pass("fold-constants", net, X).program) == ["linear"]


def test_a_constant_output():
    net = Net(lambda net, x: (x * 2, net.table * 2), table=torch.rand(3))
    assert operators(check_pass("fold-constants", net, X).program) == ["mul"]


def test_a_folded_view_does_not_keep_the_whole():
    net = Net(lambda net, x: x * net.table[0], table=torch.rand(1000))
    program = check_pass("fold-constants", net, X).program
    assert max(value.untyped_storage().nbytes() for value in program.state_dict.values()) < 100


def test_sizes_of_a_dynamic_batch_are_not_constant():
    net = Net(lambda _, x: x + torch.arange(x.shape[0]).reshape(-1, 1, 1, 1))
    check_pass("fold-constants", net, X, dynamic_batch=True)


def test_declines_a_large_table():
    net = Net(lambda net, x: x.sum() + net.row.expand(1100, 1000).clone(), row=torch.rand(1000))
    outcome = check_pass("fold-constants", net, X)
    assert "4.4 MB, more than what it is computed from" in reasons(outcome)


def test_declines_random_operators():
    outcome = run_pass("fold-constants", program_of(Net(lambda _, x: x + torch.rand(4)), X))
    assert outcome.rewrites == 0
    assert "it is random" in reasons(outcome)


def test_parts_of_a_constant():
    net = Net(
        lambda net, x: x * net.table.chunk(2, 1)[1] + net.table.sort(0)[0][:, :4], table=torch.rand(4, 8)
    )
    assert operators(check_pass("fold-constants", net, X).program) == ["mul", "add"]


def test_what_depends_on_a_shape_alone():
    net = Net(
        lambda _, x: (x + torch.zeros_like(x), x.new_zeros(3, 1, 4), torch.full_like(x[:, :1], 2.0) + x)
    )
    program = check_pass("fold-constants", net, X).program
    assert not {"zeros_like", "new_zeros", "full_like"} & set(operators(program))


def test_what_depends_on_a_dynamic_shape_stays():
    net = Net(lambda _, x: x + torch.ones_like(x))
    assert "ones_like" in operators(check_pass("fold-constants", net, X, dynamic_batch=True).program)
