"""All passes of the default target, one after another, on random networks and on awkward ones."""

import pytest
import torch
from check_pass import Net, operators, program_of, run_program, trained
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from edgecompile.graph_pass import run_passes, signature
from edgecompile.program import CapturedProgram
from edgecompile.target import load_target

PASSES = [entry.name for entry in load_target("linux-x86-64").passes]
ACTIVATIONS = [
    nn.ReLU,
    nn.ReLU6,
    lambda: nn.ReLU(inplace=True),
    nn.Hardtanh,
    nn.Hardswish,
    nn.Identity,
    nn.Dropout,
]
X = torch.rand(2, 3, 9, 9)


def run_all(module, *inputs, dynamic_batch=False):
    program = program_of(module, *inputs, dynamic_batch=dynamic_batch)
    result = run_passes(CapturedProgram(name="net", exported=program, steps=()), PASSES)
    assert signature(result.exported) == signature(program)
    assert [step.name for step in result.steps] == PASSES
    again = run_passes(CapturedProgram(name="net", exported=result.exported, steps=()), PASSES)
    assert sum(step.rewrites for step in again.steps) == 0, again.steps
    with torch.no_grad():
        expected = torch.utils._pytree.tree_leaves(module(*(value.clone() for value in inputs)))
    for found, wanted in zip(run_program(result.exported, *inputs), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
    return result.exported


class Block(nn.Module):
    def __init__(self, channels, out, kernel, stride, depthwise, bias, activation):
        super().__init__()
        groups = channels if depthwise else 1
        self.conv = nn.Conv2d(
            channels, channels if depthwise else out, kernel, stride, kernel // 2, groups=groups, bias=bias
        )
        self.out = self.conv.out_channels
        self.norm, self.activation = trained(nn.BatchNorm2d(self.out))[0], activation()

    def forward(self, x):
        h = self.activation(self.norm(self.conv(x)))
        return h + x if h.shape == x.shape else h


BLOCK = st.tuples(
    st.integers(1, 5), st.sampled_from([1, 3]), st.sampled_from([1, 2]), st.booleans(), st.booleans(),
    st.sampled_from(ACTIVATIONS)
)  # fmt: skip


@settings(max_examples=6)
@given(
    st.lists(BLOCK, min_size=1, max_size=3),
    st.sampled_from(["mean", "adaptive", "flatten"]),
    st.integers(0, 2**31),
)
def test_random_networks(blocks, head, seed):
    torch.manual_seed(seed)
    layers, channels = [], 3
    for block in blocks:
        layers.append(Block(channels, *block))
        channels = layers[-1].out
    heads = {
        "mean": lambda _, x: x.mean((2, 3)),
        "adaptive": lambda _, x: F.adaptive_avg_pool2d(x, 1),
        "flatten": lambda _, x: x.flatten(1),
    }
    program = run_all(nn.Sequential(*layers, Net(heads[head])).eval(), X)
    assert "batch_norm" not in operators(program)


def views_of_written(_, x):
    h = x * 2
    view = h.view(-1)
    h.relu_()
    view.add_(1)
    return h, view


def chunks(_, x):
    h = x * 2
    first, _ = h.chunk(2, 2)
    first.add_(1)
    return h


def dropout_alias(_, x):
    h = x * 2
    kept = F.dropout(h, training=False)
    kept.add_(1)
    return h


def written_twice(_, x):
    h = x * 3
    return h.relu_(), h.add_(1), h


def written_part(_, x):
    h = x * 3
    h[:, 0] = 1.0
    return h


def types(_, x):
    h = x.half()
    h += x
    return h.float()


@pytest.mark.parametrize(
    "function",
    [
        views_of_written,
        chunks,
        dropout_alias,
        types,
        lambda _, x: x.add_(1),
        lambda _, x: F.relu(x, inplace=True) + x,
        lambda _, x: (x, x.view(-1), x[0]),
        lambda _, x: {"a": x + 1, "b": [x * 2, (x + 1,)]},
        written_twice,
        written_part,
        lambda _, x: torch.zeros(3).add_(1).reshape(1, 3, 1, 1) * x,
        lambda _, x: torch.ones(2, 2),
    ],
)
def test_aliases_and_outputs(function):
    run_all(Net(function), X[:, :, :8, :8].contiguous())


def test_a_written_view_keeps_batchnorm_foldable():
    def forward(net, x):
        h = net.layers(x)
        h[:, 0].mul_(2)
        return h

    net = Net(forward, layers=trained(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))
    assert "batch_norm" not in operators(run_all(net, X))


@pytest.mark.parametrize("dynamic", [False, True])
def test_channel_shuffle(dynamic):
    def forward(net, x):
        h = net.first(x)
        n, c, height, width = h.shape
        h = h.view(n, 2, c // 2, height, width).transpose(1, 2).contiguous().view(n, c, height, width)
        return net.second(h).mean((2, 3))

    run_all(
        Net(forward, first=nn.Conv2d(3, 4, 1), second=nn.Conv2d(4, 4, 3, groups=4)), X, dynamic_batch=dynamic
    )
