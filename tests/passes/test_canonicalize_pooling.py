import pytest
import torch
from check_pass import Net, calls, check_pass, operators, reasons
from torch import nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from edgecompile.graph_pass import run_pass

X = torch.randn(2, 3, 8, 8)


@pytest.mark.parametrize("axes", [[2, 3], (-2, -1), (3, 2), [-1, 2]])
@pytest.mark.parametrize("dynamic", [False, True])
def test_mean_keeps_its_dimensions(axes, dynamic):
    net = Net(lambda _, x: x.mean(axes))
    program = check_pass("canonicalize-pooling", net, X, dynamic_batch=dynamic, rewrites=1).program
    assert operators(program) == ["mean", "view"]
    assert calls(program, "mean")[0][1:] == ([2, 3], True)


def test_axes_of_a_mean_that_keeps_them():
    program = check_pass("canonicalize-pooling", Net(lambda _, x: x.mean((-1, -2), keepdim=True)), X).program
    assert operators(program) == ["mean"]
    assert calls(program, "mean")[0][1:] == ([2, 3], True)


@pytest.mark.parametrize(
    "function", [lambda _, x: x.mean(1), lambda _, x: x[0].mean((1, 2)), lambda _, x: x.mean([2])]
)
def test_other_means_stay(function):
    check_pass("canonicalize-pooling", Net(function), X, rewrites=0)


@pytest.mark.parametrize("size", [1, (1, 1), [1, 1]])
def test_adaptive_to_one(size):
    program = check_pass("canonicalize-pooling", nn.AdaptiveAvgPool2d(size), X, rewrites=1).program
    assert calls(program, "mean")[0][1:] == ([2, 3], True)


@pytest.mark.parametrize(
    ("size", "kernel"), [((2, 2), [4, 4]), (4, [2, 2]), ((None, 2), [1, 4]), (8, [1, 1])]
)
def test_adaptive_that_divides(size, kernel):
    program = check_pass("canonicalize-pooling", nn.AdaptiveAvgPool2d(size), X, rewrites=1).program
    assert calls(program, "avg_pool2d")[0][1:3] == (kernel, kernel)


def test_declines_overlapping_windows():
    outcome = check_pass("canonicalize-pooling", nn.AdaptiveAvgPool2d((3, 2)), X, rewrites=0)
    assert "3x2 output does not divide its 8x8 input" in reasons(outcome)


def test_declines_without_batch():
    outcome = check_pass(
        "canonicalize-pooling", Net(lambda _, x: F.adaptive_avg_pool2d(x[0], 2)), X, rewrites=0
    )
    assert "no batch dimension" in reasons(outcome)


def test_a_mean_of_what_was_permuted():
    check_pass("canonicalize-pooling", Net(lambda _, x: x.permute(0, 3, 1, 2).mean((2, 3))), X, rewrites=1)


@pytest.mark.parametrize(("size", "kernel"), [(1, [8, 8]), ((2, 1), [4, 8]), (4, [2, 2])])
def test_adaptive_maxima(size, kernel):
    program = check_pass("canonicalize-pooling", nn.AdaptiveMaxPool2d(size), X, rewrites=1).program
    assert calls(program, "max_pool2d")[0][1:3] == (kernel, kernel)


def test_declines_where_the_maxima_are():
    net = Net(lambda _, x: F.adaptive_max_pool2d(x, 2, return_indices=True))
    outcome = check_pass("canonicalize-pooling", net, X, rewrites=0)
    assert "where the maxima are" in reasons(outcome)


def test_declines_overlapping_maxima():
    outcome = check_pass("canonicalize-pooling", nn.AdaptiveMaxPool2d(3), X, rewrites=0)
    assert "overlap" in reasons(outcome)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(
    "layer", [nn.AvgPool2d(1, 2), nn.MaxPool2d(1, (2, 1)), nn.AvgPool2d(1, 3, ceil_mode=True)]
)
def test_windows_of_one_value_are_slices(layer, dynamic):
    net = nn.Sequential(nn.ReLU(), layer)
    program = check_pass("canonicalize-pooling", net, X, dynamic_batch=dynamic).program
    assert set(operators(program)) == {"relu", "slice"}


def test_windows_of_one_value_side_by_side_are_nothing():
    net = Net(lambda _, x: F.avg_pool2d(x * 2, 1) + F.max_pool2d(x, 3, 1, 1))
    program = check_pass("canonicalize-pooling", net, X, rewrites=1).program
    assert operators(program) == ["mul", "max_pool2d", "add"]


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(
    ("function", "operator", "arguments"),
    [
        (lambda x: F.max_pool1d(x, 3, 2, 1), "max_pool2d", ([1, 3], [1, 2], [0, 1])),
        (lambda x: F.max_pool1d(x, 2, 1, 0, 3), "max_pool2d", ([1, 2], [1, 1], [0, 0], [1, 3])),
        (lambda x: F.avg_pool1d(x, 2), "avg_pool2d", ([1, 2],)),
        (
            lambda x: F.avg_pool1d(x, 3, 1, 1, True, False),
            "avg_pool2d",
            ([1, 3], [1, 1], [0, 1], False, False),
        ),
        (lambda x: F.adaptive_avg_pool1d(x, 4), "avg_pool2d", ([1, 16], [1, 16])),
        (lambda x: F.adaptive_avg_pool1d(x, 1), "mean", ([2, 3], True)),
    ],
)
def test_pooling_along_one_axis_is_pooling_of_one_row(function, operator, arguments, dynamic):
    net = Net(lambda _, x: function(x.flatten(2)))
    program = check_pass("canonicalize-pooling", net, X, dynamic_batch=dynamic).program
    ((_, *found),) = calls(program, operator)
    assert tuple(found[: len(arguments)]) == arguments
    assert not any("1d" in name for name in operators(program))


def test_declines_one_axis_without_batch():
    outcome = check_pass("canonicalize-pooling", Net(lambda _, x: F.max_pool1d(x[0, 0], 2)), X, rewrites=0)
    assert "no batch dimension" in reasons(outcome)


@pytest.mark.parametrize(
    ("arguments", "factor"),
    [
        ({"kernel_size": 2, "divisor_override": 1}, 4.0),
        ({"kernel_size": (3, 2), "stride": 1, "padding": (1, 0), "divisor_override": 5}, 1.2),
        ({"kernel_size": 3, "padding": 1, "count_include_pad": False, "divisor_override": 9}, None),
        ({"kernel_size": 3, "stride": 2, "ceil_mode": True, "divisor_override": 2}, 4.5),
        ({"kernel_size": 3, "stride": 3, "padding": 1, "ceil_mode": True, "divisor_override": 3}, 3.0),
    ],
)
def test_a_divisor_is_a_factor(arguments, factor):
    """Of windows that reach beyond the end too, where they are filled up with zeros."""
    net = Net(lambda _, x: F.avg_pool2d(x, **arguments))
    program = check_pass("canonicalize-pooling", net, torch.rand(2, 3, 8, 8), rewrites=1).program
    assert [call[1] for call in calls(program, "mul")] == ([] if factor is None else [pytest.approx(factor)])
    assert all(len(call) < 7 for call in calls(program, "avg_pool2d"))


@pytest.mark.parametrize("counts", [False, True])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(3, 2, 0), (3, 2, 1), (2, 3, 1), ((2, 3), (1, 2), (1, 1)), (4, 3, 2)]
)
def test_windows_beyond_the_end_are_padded_and_scaled(kernel, stride, padding, counts):
    net = Net(lambda _, x: F.avg_pool2d(x, kernel, stride, padding, True, counts))
    for size in (7, 8, 9):
        program = check_pass("canonicalize-pooling", net, torch.rand(2, 3, size, size), rewrites=1).program
        assert all(len(call) < 5 or not call[4] for call in calls(program, "avg_pool2d"))


def test_windows_that_end_with_the_input_are_left_as_they_are():
    net = Net(lambda _, x: F.avg_pool2d(x, 2, ceil_mode=True))
    assert operators(check_pass("canonicalize-pooling", net, X, rewrites=1).program) == ["avg_pool2d"]


def test_declines_windows_beyond_a_dynamic_end():
    module = Net(lambda _, x: F.avg_pool2d(x, 2, 1, ceil_mode=True))
    shapes = ({2: torch.export.Dim("height", min=4, max=32)},)
    exported = torch.export.export(module, (X,), dynamic_shapes=shapes)
    outcome = run_pass("canonicalize-pooling", exported)
    assert reasons(outcome) == "its windows may reach beyond the end of a dynamic size"
