import pytest
import torch
from check_pass import Net, calls, check_pass, operators, program_of, reasons
from spellings import COMPUTING, MOVING, X
from torch import nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from edgecompile.graph_pass import run_pass
from edgecompile.spelled_out import FORMULAS, MOVES, PRODUCTS

LINEAR = torch.ops.aten.linear.default  # with constant weights


@pytest.mark.parametrize("name", MOVING)
@pytest.mark.parametrize("dynamic", [False, True])
def test_what_moves_values(name, dynamic):
    """Written out, nothing is left that the pass knows, with integers and any batch too."""
    net = Net(lambda _, x: MOVING[name](x))
    check_pass("spell-out", net, X, dynamic_batch=dynamic)
    outcome = check_pass("spell-out", net, (X * 100).long(), dynamic_batch=dynamic)
    found = {node.target for node in outcome.program.graph.nodes}
    assert not found & {*MOVES, *FORMULAS, *PRODUCTS} and outcome.rewrites


@pytest.mark.parametrize("name", COMPUTING)
def test_what_computes(name):
    outcome = check_pass("spell-out", Net(lambda _, x: COMPUTING[name](x)), X)
    found = {node.target for node in outcome.program.graph.nodes} - {LINEAR}
    assert not found & {*MOVES, *FORMULAS, *PRODUCTS} and outcome.rewrites


@pytest.mark.parametrize(
    "name", ["reversed difference", "celu", "log sigmoid", "standard deviation", "cosine"]
)
def test_any_batch(name):
    check_pass("spell-out", Net(lambda _, x: COMPUTING[name](x)), X, dynamic_batch=True, rewrites=1)


def test_the_words_that_are_used():
    program = check_pass("spell-out", Net(lambda _, x: 1 - x.movedim(1, -1)), X, rewrites=2).program
    assert operators(program) == ["permute", "mul", "add"]
    assert [list(call[1:]) for call in calls(program, "mul")] == [[-1.0]]
    program = check_pass("spell-out", Net(lambda _, x: F.softshrink(x, 0.25)), X, rewrites=1).program
    assert operators(program) == ["clamp", "sub"]


@pytest.mark.parametrize(
    "function",
    [
        lambda net, x: torch.addmm(net.bias, x[0, 0], net.weight),
        lambda net, x: F.linear(x, (net.weight * 2).T),
    ],
)
def test_products_with_constants_are_left_to_recognize_linear(function):
    net = Net(function, bias=nn.Parameter(torch.rand(3)), weight=nn.Parameter(torch.rand(6, 3)))
    outcome = run_pass("spell-out", program_of(net, X))
    assert operators(outcome.program)[-1] in ("addmm", "linear")


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: F.threshold(x, 0.1, 0.0), "it has no other form: it jumps"),
        (lambda x: F.celu(x, -1.0), "it has no other form: it bends the other way"),
        (
            lambda x: F.avg_pool3d(x, 3, 1, 1, count_include_pad=False),
            "it has no other form: its windows are not equally large",
        ),
        (
            lambda x: F.max_pool3d(x, 2, dilation=2),
            "it has no other form: its windows have gaps, or reach beyond the end",
        ),
    ],
)
def test_declines_what_has_no_other_form(function, reason):
    assert reasons(check_pass("spell-out", Net(lambda _, x: function(x)), X, rewrites=0)) == reason


def test_integers_and_doubles_are_not_computed_otherwise():
    """Of 64-bit types `recognize-linear` and the like are not asked, and factors would be rounded."""
    for value in ((X * 100).long(), X.double()):
        outcome = run_pass("spell-out", program_of(Net(lambda _, x: 1 - x), value))
        assert operators(outcome.program) == ["rsub"] and outcome.declined == ()
