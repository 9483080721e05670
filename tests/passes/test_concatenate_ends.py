import pytest
import torch
from check_pass import Net, check_pass, operators, reasons
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

X = torch.randn(2, 3, 7, 8)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda _, x: x.roll(1, 2), 1),
        (lambda _, x: x.roll((3, -2), (2, 3)), 2),
        (lambda _, x: x.roll((9, 8, 1), (-2, -1, 1)), 2),  # all around is where it was
    ],
)
def test_a_shift_swaps_two_parts(function, expected, dynamic):
    program = check_pass("concatenate-ends", Net(function), X, dynamic_batch=dynamic, rewrites=1).program
    assert operators(program) == ["slice", "slice", "cat"] * expected


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("margins", [(1, 2), (0, 3), (2, 0, 1, 1), (0, 0, 4, 0)])
@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_with_what_is_inside(mode, margins, dynamic):
    net = Net(lambda _, x: F.pad(x, (*margins, 0, 0)[:4], mode=mode))
    program = check_pass("concatenate-ends", net, X, dynamic_batch=dynamic, rewrites=1).program
    assert set(operators(program)) == {"slice", "cat"}


def test_padding_of_one_axis():
    net = Net(lambda _, x: F.pad(x, (3, 2), mode="reflect"))
    check_pass("concatenate-ends", net, torch.randn(1, 2, 6), rewrites=1)


@pytest.mark.parametrize(
    "function",
    [
        lambda _, x: F.pad(x, (1, 1)),
        lambda _, x: F.pad(x, (0, 0, 0, 0), mode="reflect"),
        lambda _, x: x.roll(8, 3),
    ],
)
def test_what_stays(function):
    check_pass("concatenate-ends", Net(function), X, rewrites=0)


@pytest.mark.parametrize(
    ("function", "shape", "expected"),
    [
        (lambda _, x: x.roll(5), (2, 3, 4), "as if they lay in one row"),
        (lambda _, x: x.roll(1, 0), (2, 3, 4), "a size that it depends on is dynamic"),
        (lambda _, x: F.pad(x, (17, 0), mode="reflect"), (2, 3, 20), "wider than 16"),
        (lambda _, x: F.pad(x, (-1, 1), mode="replicate"), (2, 3, 20), "or crops"),
    ],
)
def test_declines(function, shape, expected):
    outcome = check_pass(
        "concatenate-ends", Net(function), torch.randn(shape), dynamic_batch=True, rewrites=0
    )
    assert expected in reasons(outcome)
