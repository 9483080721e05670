import pytest
import torch
from check_pass import Net, calls, check_pass, operators, program_of, reasons
from torch import nn

from edgecompile.graph_pass import run_pass

X = torch.randn(2, 6, 4, 5)


def pieces(values):
    first, *others = values
    return [first.relu(), *(value.tanh() for value in others)]


@pytest.mark.parametrize(
    ("function", "bounds"),
    [
        (lambda x: x.chunk(3, 1), [(0, 2), (2, 4), (4, 6)]),
        (lambda x: x.chunk(4, -3), [(0, 2), (2, 4), (4, 6)]),
        (lambda x: x.split(4, dim=1), [(0, 4), (4, 6)]),
        (lambda x: x.split([1, 2, 3], 1), [(0, 1), (1, 3), (3, 6)]),
        (lambda x: x.split_with_sizes([5, 1], 1), [(0, 5), (5, 6)]),
    ],
)
def test_splits_become_slices(function, bounds):
    net = Net(lambda _, x: pieces(function(x)))
    program = check_pass("canonicalize-selections", net, X, rewrites=len(bounds)).program
    assert [tuple(call[1:]) for call in calls(program, "slice")] == [(1, *pair) for pair in bounds]
    assert {"slice", "relu", "tanh"} == set(operators(program))


def test_unbind_drops_its_axis():
    net = Net(lambda _, x: pieces(x.unbind(1)[:3]))
    program = check_pass("canonicalize-selections", net, X).program
    assert operators(program).count("slice") == 3
    assert [call[1] for call in calls(program, "reshape")] == [[2, 4, 5]] * 3


@pytest.mark.parametrize("index", [0, 2, -1])
def test_select_is_a_slice_and_a_view(index):
    net = Net(lambda _, x: x.select(1, index).relu())
    program = check_pass("canonicalize-selections", net, X, rewrites=1).program
    assert calls(program, "slice")[0][1:] == (1, index % 6, index % 6 + 1)


def test_one_part_that_is_all_is_the_tensor_itself():
    program = check_pass(
        "canonicalize-selections", Net(lambda _, x: x.relu().chunk(1, 1)[0].tanh()), X
    ).program
    assert operators(program) == ["relu", "tanh"]


def test_a_part_that_nobody_reads_is_not_made():
    program = check_pass("canonicalize-selections", Net(lambda _, x: x.chunk(3, 1)[1].relu()), X).program
    assert operators(program) == ["slice", "relu"]


def test_declines_a_dynamic_axis():
    net = Net(lambda _, x: x.select(0, 0).relu() + x)
    outcome = check_pass("canonicalize-selections", net, X, dynamic_batch=True, rewrites=0)
    assert "dynamic" in reasons(outcome)


def assigned(*where, value=lambda x, part: part * 2):
    """Return a network that changes a part of a copy of its input in place."""

    def function(_, x):
        whole = x.relu()
        whole[where] = value(x, whole[where])
        return whole

    return Net(function)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(
    "where",
    [(slice(None), slice(1, 3)), (slice(None), slice(0, 2)), (slice(None), slice(-2, None)), (..., 3)],
)
def test_assignments_become_concatenations(where, dynamic):
    program = check_pass("canonicalize-selections", assigned(*where), X, dynamic_batch=dynamic).program
    assert "cat" in operators(program)
    assert not any("scatter" in name for name in operators(program))


def test_assignments_inside_each_other():
    program = check_pass("canonicalize-selections", assigned(..., slice(1, 3), slice(2, 4)), X).program
    assert operators(program).count("cat") == 2


def test_declines_every_other_value():
    outcome = check_pass("canonicalize-selections", assigned(..., slice(None, None, 2)), X)
    assert "every few values" in reasons(outcome)


ROWS, COLUMNS = torch.arange(2)[:, None, None], torch.arange(6)[None, :, None]


def test_picking_all_in_order_is_a_view():
    net = Net(lambda net, x: x[net.rows, net.columns], rows=ROWS, columns=COLUMNS)
    program = check_pass("canonicalize-selections", net, X, rewrites=1).program
    assert operators(program) == ["view"]


def test_picking_all_in_another_order_stays():
    net = Net(lambda net, x: x[net.rows, :, net.columns[..., :4, :]], rows=ROWS, columns=COLUMNS)
    assert "index" in operators(check_pass("canonicalize-selections", net, X, rewrites=0).program)


@pytest.mark.parametrize("places", [torch.tensor([1, 0]), torch.tensor([0]), torch.tensor([0, 1, 1])])
def test_picking_others_stays(places):
    net = Net(lambda net, x: x[net.places], places=places)
    assert operators(check_pass("canonicalize-selections", net, X, rewrites=0).program) == ["index"]


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        (torch.tensor([2, 3, 4]), (1, 2, 5)),
        (torch.tensor([0, 2, 4]), None),
        (torch.tensor([3, 3, 1]), None),
    ],
)
def test_selected_places_are_a_slice_or_indexed(places, expected):
    net = Net(lambda net, x: x.index_select(1, net.places), places=places)
    program = check_pass("canonicalize-selections", net, X, dynamic_batch=True, rewrites=1).program
    assert operators(program) == ["index" if expected is None else "slice"]
    assert expected is None or calls(program, "slice")[0][1:] == expected


def test_selected_places_of_a_dynamic_axis_stay():
    net = Net(lambda net, x: x.index_select(0, net.places).sum(0, keepdim=True) + x, places=torch.arange(2))
    check_pass("canonicalize-selections", net, X, dynamic_batch=True, rewrites=0)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_of_one_size_are_pooled_embeddings(mode):
    words = torch.randint(0, 9, (3, 4))
    program = run_pass("fold-constants", program_of(nn.EmbeddingBag(9, 5, mode=mode), words)).program
    program = check_pass("canonicalize-selections", program, words, rewrites=1).program
    assert operators(program)[-2:] == ["embedding", "amax" if mode == "max" else mode]


def test_bags_of_other_sizes_stay():
    words, offsets = torch.randint(0, 9, (7,)), torch.tensor([0, 3])
    net = Net(lambda net, x: net.bag(x, net.offsets), bag=nn.EmbeddingBag(9, 5), offsets=offsets)
    assert "embedding_bag" in operators(check_pass("canonicalize-selections", net, words, rewrites=0).program)
