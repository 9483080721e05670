"""Each rule of what is quantized, in every engine: as close to float as the reference, layer by layer too."""

import pytest
import torch
from every_engine import check_every_engine
from quantized_net import Net, kinds
from torch import nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

SHAPE = (1, 4, 8, 8)


def table(like):
    """Return a constant, as a position encoding is."""
    return torch.linspace(-2, 1, like.numel()).reshape(like.shape)


def every_other_token(tokens):
    """Return those of every other row and column of a picture."""
    picture = (tokens + tokens.sigmoid()).view(1, 7, 7, 4)
    return picture[:, ::2, ::2].permute(0, 3, 1, 2) + F.softmax(tokens, 1)[:, :16].mT.reshape(1, 4, 4, 4)


# The kinds of the quantized layers between the two convolutions, and what is computed there.
RULES = {
    "relu": ([], lambda h: h.relu()),
    "relu6": ([], F.relu6),
    "sigmoid": (["sigmoid"], lambda h: h.sigmoid()),
    "tanh": (["tanh"], lambda h: h.tanh()),
    "hardsigmoid": (["hardsigmoid"], F.hardsigmoid),
    "hardswish": (["hardswish"], F.hardswish),
    "leaky relu": (["leaky_relu"], lambda h: F.leaky_relu(h, 0.2)),
    "elu": (["elu"], F.elu),
    "silu": (["silu"], F.silu),
    "gelu": (["gelu"], F.gelu),
    "residual": (["sigmoid", "add"], lambda h: h.sigmoid() + h),
    "product": (["tanh", "mul"], lambda h: h.tanh() * h),
    "squeeze and excite": (["mean", "sigmoid", "mul"], lambda h: h * h.mean((2, 3), keepdim=True).sigmoid()),
    "added means": (["mean", "add"], lambda h: h + h.mean((2, 3), keepdim=True)),
    "max pool": (["max_pool2d"], lambda h: F.max_pool2d(h, 2)),
    "average pool": (["avg_pool2d"], lambda h: F.avg_pool2d(h, 2)),
    "padded average pool": (["avg_pool2d"], lambda h: F.avg_pool2d(h, 3, 1, 1)),
    "average pool that does not count its padding": (
        ["avg_pool2d"],
        lambda h: F.avg_pool2d(h, 3, 1, 1, count_include_pad=False),
    ),
    "strided pool that does not count its padding": (
        ["avg_pool2d"],
        lambda h: F.avg_pool2d(h, 3, 2, 1, count_include_pad=False),
    ),
    "nearest": (["upsample_nearest2d"], lambda h: F.interpolate(h, scale_factor=2)),
    "pixel shuffle": (
        ["pixel_shuffle", "pixel_unshuffle"],
        lambda h: F.pixel_unshuffle(F.pixel_shuffle(h, 2), 2),
    ),
    "concatenation": (["max_pool2d", "cat"], lambda h: torch.cat([h, F.max_pool2d(h, 3, 1, 1)], 1)[:, 2:6]),
    "probabilities beside others": (
        ["sigmoid", "tanh", "cat"],
        lambda h: torch.cat([h.sigmoid(), h, h.tanh()], 1)[:, 2:6],
    ),
    "split": (["slice", "slice", "add"], lambda h: torch.cat([sum(h.chunk(2, 1))] * 2, 1)),
    "shuffled channels": (
        ["view", "permute", "reshape"],
        lambda h: h.view(1, 2, 2, 8, 8).transpose(1, 2).reshape(h.shape),
    ),
    "padding": (["constant_pad_nd"], lambda h: F.pad(h, (1, 1, 1, 1), value=0.5)),
    "positions": (["add"], lambda h: h + table(h)),
    "constant factors": (["mul"], lambda h: h * table(h)),
    "class token": (["cat"], lambda h: torch.cat([table(h)[:, :, :1], h], 2)),
    "a slice of a constant": (["mul"], lambda h: h * table(h).chunk(2, 1)[0].repeat(1, 2, 1, 1)),
    "transposed convolution": (
        ["pixel_shuffle", "slice", "slice"],
        lambda h: F.conv_transpose2d(h, table(h[:1, :, :4, :4].expand(4, 4, 4, 4)), stride=2, padding=1),
    ),
    "patches": (["slice"], lambda h: F.unfold(h, 3, 1, 1).view(1, 36, 8, 8)[:, 16:20]),
    "sum of patches": (
        ["pixel_shuffle", "expand"],
        lambda h: F.fold(h.view(1, 4, 64), 16, 2, stride=2).expand(1, 4, 16, 16),
    ),
    "windows": (["slice", "slice", "slice", "cat"], lambda h: h.unfold(2, 4, 2).flatten(3).mT),
    "volumes": (
        ["reshape", "permute"],
        lambda h: F.conv3d(
            h.reshape(1, 4, 4, 2, 8),
            table(h[:, :, :3, :3].expand(4, 4, 3, 3)).reshape(4, 4, 3, 1, 3),
            padding=(1, 0, 1),
        ).reshape(1, 4, 8, 8),
    ),
    "every other of seven": (
        ["max_pool2d", "slice", "slice"],
        lambda h: F.max_pool2d(h, 2, 1)[:, :, ::2, ::2],
    ),
    "every other of 49 tokens": (
        ["slice", "slice", "reshape", "permute", "sigmoid", "add", "view"],
        lambda h: every_other_token(h[:, :, :7, :7].flatten(2).mT),
    ),
    "padding before a maximum": (
        ["slice", "cat", "slice", "cat", "max_pool2d"],
        lambda h: F.max_pool2d(F.pad(h, (0, 1, 0, 1), value=-torch.inf), 3, 2),
    ),
    "assignment": (["slice", "tanh", "slice", "cat"], lambda h: h.slice_scatter(h[:, :2].tanh(), 1, 0, 2)),
    "linear layers": (
        ["view", "permute", "linear", "permute"],
        lambda h: (
            F.linear(h.flatten(2).transpose(1, 2), table(h[0, :, :4, 0].T)).transpose(1, 2).reshape(h.shape)
        ),
    ),
    "linear layers over pictures": (
        [],
        lambda h: F.linear(h.permute(0, 2, 3, 1), table(h[0, :, :4, 0].T)).permute(0, 3, 1, 2),
    ),
    "layers of one axis": (
        ["view", "conv1d", "view"],
        lambda h: F.conv1d(h.flatten(2), table(h[0, :, :4, :3]), padding=1).view(h.shape),
    ),
    "flip": (["flip"], lambda h: h.flip(3)),
    "expanded": (["slice", "expand"], lambda h: h[:, :, :1].expand(1, 4, 8, 8)),
}  # fmt: skip


def network(name):
    """Return what a rule is for, between two convolutions."""
    return Net(
        lambda net, x: net.last(RULES[name][1](net.first(x))),
        first=nn.Conv2d(4, 4, 3, padding=1),
        last=nn.Conv2d(4, 5, 1),
    )


@pytest.mark.parametrize("name", RULES)
def test_every_engine_computes_it(name):
    torch.manual_seed(0)
    expected, _ = RULES[name]
    checked = check_every_engine(network(name), *SHAPE)
    found = kinds(checked.program)
    assert [kind for kind in found if kind != "conv2d"][: len(expected)] == expected
    assert checked.emitted["pte"].declined == ()
    assert checked.emitted["pte"].delegates == {"xnnpack": 1}


# What reads quantized values in several ways, and what of it runs outside the delegate.
OUTSIDE = {
    "a convolution with computed weights": (
        {"aten::convolution"},
        lambda h: F.conv2d(h, h[:1, :, :3, :3].expand(4, -1, -1, -1), padding=1),
    ),
    "a transposed one": (
        {"aten::convolution"},
        lambda h: F.conv_transpose2d(h, h[:, :, :3, :3].expand(4, -1, -1, -1), padding=1),
    ),
    "a choice that reads a picture twice": (
        {"aten::scalar_tensor", "aten::le", "aten::where"},
        F.hardshrink,
    ),
    "attention that reads a picture in two orders": (
        set(),
        lambda h: F.scaled_dot_product_attention(h, h, h),
    ),
    "the largest": ({"aten::topk"}, lambda h: h.topk(4, 1)[0]),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_values_enter_and_leave_the_delegate(name):
    torch.manual_seed(0)
    expected, compute = OUTSIDE[name]
    net = Net(
        lambda net, x: net.last(compute(net.first(x))),
        first=nn.Conv2d(4, 4, 3, padding=1),
        last=nn.Conv2d(4, 5, 1),
    )
    declined = check_every_engine(net, *SHAPE).emitted["pte"].declined
    assert {row.what.split(" ")[0] for row in declined} == expected
