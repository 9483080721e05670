import torch
from check_pass import Net, check_pass, operators, program_of
from torch import nn

from edgecompile.graph_pass import run_pass

X = torch.randn(2, 3, 4, 4)


def test_equal_calls():
    net = Net(lambda _, x: torch.relu(x) + torch.relu(x))
    assert operators(check_pass("merge-common-subexpressions", net, X, rewrites=1).program) == ["relu", "add"]


def test_chains_and_shared_layers():
    net = Net(lambda net, x: (net.conv(x).mean((2, 3)), net.conv(x).mean((2, 3))), conv=nn.Conv2d(3, 4, 1))
    assert operators(check_pass("merge-common-subexpressions", net, X, rewrites=2).program) == [
        "conv2d",
        "mean",
    ]


def test_different_arguments_stay():
    net = Net(lambda _, x: (x + 1, x + 1.5, x - 1, x.sum(1), x.sum(1, keepdim=True), x.to(torch.float64)))
    check_pass("merge-common-subexpressions", net, X, rewrites=0)


def written_between(_, x):
    h = x * 2
    return h + 1, h.relu_(), h + 1


def test_writes_are_seen():
    check_pass("merge-common-subexpressions", Net(written_between), X)


def test_declines_random_operators():
    outcome = run_pass(
        "merge-common-subexpressions", program_of(Net(lambda _, x: x + torch.rand(4) + torch.rand(4)), X)
    )
    assert outcome.rewrites == 0


def test_declines_dropout_in_training():
    net = Net(lambda _, x: torch.dropout(x, 0.5, True) + torch.dropout(x, 0.5, True))
    assert run_pass("merge-common-subexpressions", program_of(net, X)).rewrites == 0
