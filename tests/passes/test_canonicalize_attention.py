import pytest
import torch
from check_pass import Net, check_pass, operators, reasons
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

X = torch.randn(2, 6, 8)
MASK = torch.randn(6, 6)
ATTENTION = "scaled_dot_product_attention"


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(
    "function",
    [
        lambda _, x: F.scaled_dot_product_attention(x, x + 1, x * 2),
        lambda _, x: F.scaled_dot_product_attention(x, x, x, is_causal=True, scale=0.3),
        lambda net, x: F.scaled_dot_product_attention(x, x, x, net.mask),
        lambda net, x: F.scaled_dot_product_attention(x, x, x, attn_mask=x @ x.transpose(1, 2)),
        lambda net, x: F.scaled_dot_product_attention(x, x, x, x @ x.transpose(1, 2)),
    ],
)
def test_three_axes_become_four(function, dynamic):
    net = Net(function, mask=MASK)
    program = check_pass("canonicalize-attention", net, X, dynamic_batch=dynamic, rewrites=1).program
    (node,) = (node for node in program.graph.nodes if ATTENTION in str(node.target))
    assert node.meta["val"].dim() == 4


def test_four_axes_stay():
    net = Net(lambda _, x: F.scaled_dot_product_attention(x[None], x[None], x[None]))
    assert ATTENTION in operators(check_pass("canonicalize-attention", net, X, rewrites=0).program)


@pytest.mark.parametrize("dynamic", [False, True])
def test_five_axes_become_four(dynamic):
    net = Net(
        lambda net, x: F.scaled_dot_product_attention(*[x.view(-1, 2, 2, 3, 4)] * 3, net.mask[:3, :3]),
        mask=MASK,
    )
    program = check_pass("canonicalize-attention", net, X, dynamic_batch=dynamic, rewrites=1).program
    (node,) = (node for node in program.graph.nodes if ATTENTION in str(node.target))
    assert node.meta["val"].shape[1:] == (2, 3, 4)


def test_declines_masks_for_five_axes():
    net = Net(
        lambda net, x: F.scaled_dot_product_attention(
            *[x.view(1, 2, 2, 3, 8)] * 3, net.mask[:3, :3].view(1, 3, 3)
        ),
        mask=MASK,
    )
    assert "a mask of as many axes" in reasons(check_pass("canonicalize-attention", net, X, rewrites=0))


def test_declines_two_axes():
    net = Net(lambda _, x: F.scaled_dot_product_attention(x[0], x[0], x[0]))
    assert "two axes" in reasons(check_pass("canonicalize-attention", net, X, rewrites=0))


@pytest.mark.parametrize(
    "mask", [torch.ones(6, 6, dtype=torch.bool), torch.zeros(6, 6), torch.ones(1, 1, 1, 6, dtype=torch.bool)]
)
def test_a_mask_that_masks_nothing_is_dropped(mask):
    net = Net(lambda net, x: F.scaled_dot_product_attention(*[x.view(-1, 1, 6, 8)] * 3, net.mask), mask=mask)
    program = check_pass("canonicalize-attention", net, X, rewrites=1).program
    (node,) = (node for node in program.graph.nodes if ATTENTION in str(node.target))
    assert len(node.all_input_nodes) == 1


@pytest.mark.parametrize("mask", [torch.ones(6, 6).tril().bool(), torch.ones(6, 6)])
def test_a_mask_that_changes_something_stays(mask):
    net = Net(lambda net, x: F.scaled_dot_product_attention(*[x.view(-1, 1, 6, 8)] * 3, net.mask), mask=mask)
    check_pass("canonicalize-attention", net, X, rewrites=0)


def test_a_mask_of_three_axes_that_masks_nothing_is_dropped():
    net = Net(
        lambda net, x: F.scaled_dot_product_attention(x, x, x, net.mask),
        mask=torch.ones(1, 6, 6, dtype=torch.bool),
    )
    program = check_pass("canonicalize-attention", net, X).program
    (node,) = (node for node in program.graph.nodes if ATTENTION in str(node.target))
    assert len(node.args) + len(node.kwargs) == 4 and node.args[3] is None
