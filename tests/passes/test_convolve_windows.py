import pytest
import torch
from check_pass import Net, calls, check_pass, operators, reasons
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

X = torch.randn(2, 3, 12, 8)


def patches(*settings):
    return Net(lambda net, x: F.unfold(x, *settings) * 2)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("settings", [(3, 1, 1, 2), ((3, 2), (2, 1), (1, 0), (1, 2)), (4, 1, 2, 4)])
def test_overlapping_patches_become_a_depthwise_convolution(settings, dynamic):
    program = check_pass("convolve-windows", patches(*settings), X, dynamic_batch=dynamic, rewrites=1).program
    assert operators(program) == ["conv2d", "view", "mul"]
    assert calls(program, "conv2d")[0][6] == 3


@pytest.mark.parametrize("dynamic", [False, True])
def test_tiles_become_channels(dynamic):
    program = check_pass(
        "convolve-windows", patches(4, 1, 0, 4), X, dynamic_batch=dynamic, rewrites=1
    ).program
    assert operators(program) == ["pixel_unshuffle", "view", "mul"]


def test_tiles_that_are_no_squares_become_a_convolution():
    program = check_pass("convolve-windows", patches((4, 2), 1, 0, (4, 2)), X, rewrites=1).program
    assert operators(program) == ["conv2d", "view", "mul"]


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("axis", [1, 2, -1])
def test_sliding_windows_become_slices(axis, dynamic):
    net = Net(lambda net, x: x.unfold(axis, 3, 2).unfold(2, 2, 1))
    outcome = check_pass("convolve-windows", net, torch.randn(2, 3, 6, 8), dynamic_batch=dynamic)
    assert outcome.rewrites == 2
    assert "unfold" not in operators(outcome.program)
    assert "cat" in operators(outcome.program)


def test_declines_many_windows():
    outcome = check_pass(
        "convolve-windows", Net(lambda net, x: x.unfold(2, 2, 1)), torch.randn(1, 1, 20, 2), rewrites=0
    )
    assert "19 windows" in reasons(outcome)


def test_declines_windows_over_the_batch():
    net = Net(lambda net, x: x.unfold(0, 1, 1))
    outcome = check_pass("convolve-windows", net, X, dynamic_batch=True, rewrites=0)
    assert "dynamic" in reasons(outcome)


def test_declines_other_types():
    outcome = check_pass("convolve-windows", Net(lambda net, x: F.unfold(x, 3)), X.double(), rewrites=0)
    assert "float32" in reasons(outcome)
