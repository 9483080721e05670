"""Each pass, in every engine: what it makes is as close to float as the reference, layer by layer too."""

import pytest
import torch
from every_engine import check_every_engine
from quantized_net import TARGET, Net, kinds, quantized, rewritten
from test_operator_rules import RULES, network
from torch import nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from edgecompile.emitters.executorch import Executorch
from edgecompile.quantize.annotate import operators_with_rules

SHAPE = (1, 4, 8, 8)
WEIGHT = torch.linspace(-1, 1, 16).reshape(4, 4)


def norm():
    layer = nn.BatchNorm2d(4)
    nn.init.uniform_(layer.running_mean, -1, 1)
    nn.init.uniform_(layer.running_var, 0.5, 2)
    return layer


def tokens(h):
    """Return a picture (1, C, H, W) as (1, H W, C)."""
    return h.flatten(2).mT


def picture(rows):
    return rows.mT.reshape(SHAPE)


def layer_norm(rows):
    centred = rows - rows.mean(-1, keepdim=True)
    return centred / torch.sqrt((centred * centred).mean(-1, keepdim=True) + 1e-5)


def outlook(net, x):
    """Return a block whose input is normed, and added in integers (as in VOLO, Yuan et al. 2021)."""
    rows = net.first(x).permute(0, 2, 3, 1)
    values = F.linear(F.layer_norm(rows, (4,)), net.weight).permute(0, 3, 1, 2)
    return (F.max_pool2d(values, 3, 1, 1).permute(0, 2, 3, 1) + rows).permute(0, 3, 1, 2)


# What lies between two convolutions, and the passes that rewrite it.
PASSES = {
    "input normalization": ({"fold-input-normalization"}, lambda net, x: net.first((x - 0.4) / 0.3)),
    "a norm after a layer": (
        {"fold-batchnorm", "remove-noops"},
        lambda net, x: F.dropout(net.norm(net.first(x)), training=False).relu(),
    ),
    "a norm on its own": ({"convolve-batchnorm"}, lambda net, x: net.norm(net.first(x) + x)),
    "spellings": (
        {"spell-out"},
        lambda net, x: F.selu(torch.hstack([part.mT for part in net.first(x).hsplit(2)]).mT) - net.first(x),
    ),
    "factors and positions": (
        {"fold-constants", "fold-scales"},
        lambda net, x: net.first(x) * (net.factors + 1) + net.positions * 2,
    ),
    "factors and offsets before layers": (
        {"fold-scales"},
        lambda net, x: net.same(net.first(x).relu() * net.factors + 0.5).tanh() * 0.25 - 1,
    ),
    "a product with constants": (
        {"recognize-linear"},
        lambda net, x: picture(tokens(net.first(x)) @ net.weight),
    ),
    "attention of three axes": (
        {"canonicalize-attention"},
        lambda net, x: picture(F.scaled_dot_product_attention(*[tokens(net.first(x))] * 3)),
    ),
    "norms from their parts": ({"recognize-norms"}, lambda net, x: picture(layer_norm(tokens(net.first(x))))),
    "activations from their parts": (
        {"recognize-activations", "canonicalize-activations"},
        lambda net, x: (h := net.first(x)) * torch.sigmoid(h) + h.clamp(0, 6),
    ),
    "pooling and padding": (
        {"canonicalize-padding", "canonicalize-pooling"},
        lambda net, x: net.first(F.pad(x, (1, 1, 1, 1))) + F.adaptive_avg_pool2d(x, 1),
    ),
    "copies and parts": (
        {"canonicalize-broadcasts", "canonicalize-selections", "canonicalize-views"},
        lambda net, x: net.first(x).chunk(2, 1)[1].flatten(2).unflatten(2, (8, 8)).repeat(1, 2, 1, 1),
    ),
    "twice the same": (
        {"merge-common-subexpressions"},
        lambda net, x: (h := net.first(x)).tanh() + h.tanh(),
    ),
    "a shift": ({"concatenate-ends"}, lambda net, x: net.first(x).roll((1, -2), (2, 3))),
    "reflections": ({"concatenate-ends"}, lambda net, x: F.pad(net.first(x), (1, 2, 1, 0), mode="reflect")),
    "replicas": ({"concatenate-ends"}, lambda net, x: F.pad(net.first(x), (1, 2, 1, 0), mode="replicate")),
    "around": ({"concatenate-ends"}, lambda net, x: F.pad(net.first(x), (1, 2, 1, 0), mode="circular")),
    "a transposed layer": (
        {"convolve-transposed"},
        lambda net, x: F.conv_transpose2d(net.first(x), net.kernel, stride=2, padding=1),
    ),
    "a recurrent cell": (
        {"unroll-cells"},
        lambda net, x: net.cell(net.first(x).flatten(1)[:, :32], x.flatten(1)[:, :8])[..., None, None].expand(
            1, 8, 8, 8
        )[:, :4],
    ),
    "linear layers between permutes": (
        {"convolve-linears"},
        lambda net, x: F.gelu(
            F.linear(F.layer_norm(net.first(x).permute(0, 2, 3, 1), (4,)), net.weight)
        ).permute(0, 3, 1, 2),
    ),
    "a norm of channels beside other readers": ({"convolve-linears"}, outlook),
    "windows": (
        {"convolve-windows"},
        lambda net, x: F.unfold(net.first(x), 3, 1, 1).view(1, 36, 8, 8)[:, 8:12],
    ),
    "volumes": (
        {"flatten-convolutions"},
        lambda net, x: F.conv3d(
            net.first(x).unsqueeze(2), net.kernel.unsqueeze(2), padding=(0, 1, 1)
        ).squeeze(2),
    ),
}  # fmt: skip


def made(name):
    _, function = PASSES[name]
    return Net(
        lambda net, x: net.last(function(net, x)),
        first=nn.Conv2d(4, 4, 3, padding=1),
        last=nn.Conv2d(4, 5, 1),
        norm=norm(),
        same=nn.Conv2d(4, 4, 1),
        factors=torch.linspace(0, 1, 4).reshape(1, 4, 1, 1),
        positions=torch.linspace(-1, 1, 256).reshape(SHAPE),
        weight=WEIGHT,
        cell=nn.GRUCell(32, 8),
        kernel=torch.linspace(-1, 1, 256).reshape(4, 4, 4, 4),
    ).eval()


@pytest.mark.parametrize("name", PASSES)
def test_every_engine_computes_it(name):
    torch.manual_seed(0)
    net = made(name)
    steps = rewritten(net, *SHAPE).steps
    assert {step.name for step in steps if step.rewrites} >= PASSES[name][0]
    checked = check_every_engine(net, *SHAPE, samples=8)
    assert checked.emitted["pte"].delegates == {"xnnpack": 1}
    assert not [row for emitted in checked.emitted.values() for row in emitted.declined if "Pad" in row.what]


def test_no_picture_is_turned_for_a_norm_of_channels():
    program = quantized(made("linear layers between permutes"), *SHAPE)
    assert "permute" in kinds(program)
    emitted = Executorch.emit(program, TARGET.emit["pte"])
    assert emitted.delegates == {"xnnpack": 1}
    assert "aten::permute_copy" not in emitted.operators


def test_no_pass_is_missing():
    found = set().union(*(passes for passes, _ in PASSES.values()))
    # What is dead from the start goes with the first pass; this one is for what the others leave.
    assert {entry.name for entry in TARGET.passes} - found == {"remove-dead-code"}


def test_no_rule_is_missing():
    programs = [rewritten(network(name), *SHAPE) for name in RULES] + [
        rewritten(made(name), *SHAPE) for name in PASSES
    ]
    found = {node.target for program in programs for node in program.exported.graph.nodes}
    # Of the rules' operators, this one is left where a size is dynamic only; otherwise it is an `expand`.
    assert operators_with_rules() - found == {torch.ops.aten.expand_as.default}
