"""Operators that XNNPACK lacks: each is in the one delegate of its `.pte`, and computes what torch does."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from edgecompile.capture import capture
from edgecompile.emitters.executorch import Executorch
from edgecompile.engines.executorch import Executorch as Engine
from edgecompile.graph_pass import run_passes
from edgecompile.program import QuantizedProgram, SourceModel
from edgecompile.target import load_target

TARGET = load_target("linux-x86-64")

WEIGHT, BIAS = torch.linspace(0.5, 2, 8), torch.linspace(-1, 1, 8)
TOKENS, PICTURE, HEADS = (2, 6, 8), (1, 8, 6, 4), (1, 2, 6, 8)

FORMS = {
    "layer norm": (
        TOKENS,
        lambda x: F.layer_norm(x, (8,), WEIGHT, BIAS),
    ),
    "layer norm of two axes": (TOKENS, lambda x: F.layer_norm(x, (6, 8), eps=1e-3)),
    "layer norm of channels": (
        PICTURE,
        lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (8,), WEIGHT, BIAS).permute(0, 3, 1, 2),
    ),
    "rms norm of channels": (
        PICTURE,
        lambda x: F.rms_norm(x.permute(0, 2, 3, 1), (8,), WEIGHT).permute(0, 3, 1, 2),
    ),
    "layer norm of channels that come last": (
        PICTURE,
        lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (8,), WEIGHT).relu() + x.permute(0, 2, 3, 1),
    ),
    "instance norm": (PICTURE, lambda x: F.instance_norm(x, weight=WEIGHT, bias=BIAS)),
    "log softmax": (TOKENS, lambda x: F.log_softmax(20 * x, -1) + F.log_softmax(x, 1)),
    "rms norm": (TOKENS, lambda x: F.rms_norm(x, (8,), WEIGHT)),
    "group norm": (
        PICTURE,
        lambda x: F.group_norm(x, 2, WEIGHT, BIAS),
    ),
    "group norm of many": ((2, 4, 80, 64), lambda x: F.group_norm(x, 1)),
    "attention": (HEADS, lambda x: F.scaled_dot_product_attention(x, x + 1, x * 2)),
    "attention with a scale": (HEADS, lambda x: F.scaled_dot_product_attention(x, x, x, scale=0.2)),
    "attention of heads that share keys": (
        HEADS,
        lambda x: F.scaled_dot_product_attention(x, x[:, :1] + 1, x[:, 1:]),
    ),
    "causal attention": (HEADS, lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True)),
    "masked attention": (
        HEADS,
        lambda x: F.scaled_dot_product_attention(x, x, x, attn_mask=torch.linspace(-3, 3, 36).reshape(6, 6)),
    ),
    "attention with a mask of choices": (
        HEADS,
        lambda x: F.scaled_dot_product_attention(x, x, x, attn_mask=torch.ones(6, 6).tril(-1).bool()),
    ),
    "matmul of four axes": (HEADS, lambda x: x @ x.transpose(-1, -2)),
    "products that broadcast": (
        HEADS,
        lambda x: (x @ x[:, :1].mT) @ x[0, 0] + x[:, :1, :, :6] @ (x + x[:, :, :1] @ x.mT @ x),
    ),
    "products of other axes": (
        HEADS,
        lambda x: (
            x.unsqueeze(3) @ x[:, :1].unsqueeze(4)
            + (x[0, 0, :, :2].T @ x).mean((2, 3))[..., None, None, None]
        ),
    ),
    "matmul of two axes": ((6, 8), lambda x: x @ x.T),
    "softmax of channels": (PICTURE, lambda x: x.softmax(1)),
    "softmax of a convolution": (
        PICTURE,
        lambda x: F.conv2d(x, WEIGHT.reshape(8, 1, 1, 1), groups=8).softmax(-1),
    ),
    "mean of channels": (PICTURE, lambda x: x.mean(1, keepdim=True)),
    "mean of tokens": (TOKENS, lambda x: x.mean(1)),
    "mean of the last axis": (TOKENS, lambda x: x.mean(-1)),
    "mean of height": (PICTURE, lambda x: x.mean(2, keepdim=True)),
    "mean of the first axis": (TOKENS, lambda x: x.mean(0) + x.sum(0, keepdim=True)),
    "sum of two": ((1, 2, 3, 4), lambda x: x.sum(1)),
    "sum of many": (TOKENS, lambda x: x.sum((1, 2), keepdim=True)),
    "norm": (PICTURE, lambda x: torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True)),
    "variance": (TOKENS, lambda x: x.var(-1, keepdim=True)),
    "biased variance": (TOKENS, lambda x: x.var(1, unbiased=False)),
    "largest": (TOKENS, lambda x: x.amax(1)),
    "largest alone": (TOKENS, lambda x: x.max(-1)[0] + x.max(1, keepdim=True)[0].sum(-1)),
    "largest of two axes": (PICTURE, lambda x: x.amax((2, 3))),
    "every other": (TOKENS, lambda x: x[..., ::2] - x[..., 1::2]),
    "every other of seven": ((1, 2, 7, 7), lambda x: x[:, :, ::2, 1::2] - x[:, :, ::2, 1:6:2]),
    "every third": ((2, 3, 11), lambda x: x[..., ::3] - x[..., 1::3] + x[..., 0:10:3] * 2),
    "every third from the fourth": ((2, 3, 11), lambda x: x[..., 4::3] - x[..., 3:10:3]),
    "values in another order": (
        TOKENS,
        lambda x: x[:, :, [3, 1, -1, 3, 0]] + x[:, [0, 5, 2, 2, 1, -3]].sum(-1)[..., None],
    ),
    "roll": (PICTURE, lambda x: torch.roll(x, (1, -2), (2, 3))),
    "flip": (PICTURE, lambda x: x.flip(-1)),
    "expand": ((1, 1, 3), lambda x: torch.cat([x.expand(1, 4, 3), x], 1)),
    "nearest": (PICTURE, lambda x: F.interpolate(x, scale_factor=2)),
    "nearest of one axis": (PICTURE, lambda x: F.interpolate(x, size=(18, 4))),
    "nearest by fractions": (PICTURE, lambda x: F.interpolate(x, size=(9, 3))),
    "nearest by fractions from the middle": (
        PICTURE,
        lambda x: F.interpolate(x, scale_factor=1.7, mode="nearest-exact"),
    ),
    "bicubic": (PICTURE, lambda x: F.interpolate(x, size=(5, 9), mode="bicubic")),
    "bicubic to the corners": (
        PICTURE,
        lambda x: F.interpolate(x, scale_factor=1.5, mode="bicubic", align_corners=True),
    ),
    "smaller pictures": (
        PICTURE,
        lambda x: (
            F.interpolate(x, size=(4, 3), mode="bilinear", antialias=True)
            + F.interpolate(x, size=(4, 3), mode="bicubic", antialias=True)
        ),
    ),
    "pooling of overlapping windows": (PICTURE, lambda x: F.adaptive_avg_pool2d(x, (4, 3))),
    "reflections": (PICTURE, lambda x: F.pad(x, (1, 2, 2, 0), mode="reflect")),
    "replicas": (PICTURE, lambda x: F.pad(x, (1, 1, 0, 2), mode="replicate")),
    "pixel shuffle": (PICTURE, lambda x: F.pixel_shuffle(x, 2)),
    "pixel unshuffle": (PICTURE, lambda x: F.pixel_unshuffle(x, 2)),
    "hard sigmoid": (TOKENS, lambda x: F.hardsigmoid(3 * x)),
    "whole numbers": (TOKENS, lambda x: (x * 2 + 1) / 3 - 4),
    "powers": (TOKENS, lambda x: x**2 + x**3 + x**4),
    "inverse powers": (TOKENS, lambda x: (x.abs() + 1) ** -2 + 1 / (x.abs() + 1)),
    "powers between": (TOKENS, lambda x: (x.relu() + 0.01) ** 1.7 + (x.abs() + 1) ** (-1 / 3)),
    "roots": (TOKENS, lambda x: (x.abs() + 1) ** 0.5),
    "elu": (TOKENS, lambda x: F.elu(x) + F.elu(x, 0.5)),
    "mish": (TOKENS, F.mish),
    "silu": (PICTURE, F.silu),
    "gelu": (TOKENS, F.gelu),
    "gelu by tanh": (TOKENS, lambda x: F.gelu(x, approximate="tanh")),
    "hard swish": (PICTURE, lambda x: F.hardswish(3 * x)),
    "leaky relu": (PICTURE, lambda x: F.leaky_relu(x, 0.2)),
    "bilinear": (PICTURE, lambda x: F.interpolate(x, scale_factor=2, mode="bilinear")),
    "bilinear to the corners": (
        PICTURE,
        lambda x: F.interpolate(x, size=(9, 5), mode="bilinear", align_corners=True),
    ),
    "maximum": (PICTURE, lambda x: torch.maximum(x, 0.5 - x) + torch.minimum(x, 0.1 * x)),
    "sines": (TOKENS, lambda x: x.sin() + x.cos()),
    "softplus": (TOKENS, lambda x: F.softplus(10 * x)),
    "pooling that counts its padding": (PICTURE, lambda x: F.avg_pool2d(x, 3, 1, 1)),
    "pooling that does not": (PICTURE, lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)),
    "pooling in ceil mode": ((1, 3, 7, 8), lambda x: F.avg_pool2d(x, 2, 2, ceil_mode=True)),
    "padded pooling in ceil mode": (
        (1, 3, 7, 8),
        lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
    ),
    "counted pooling in ceil mode": ((1, 3, 8, 6), lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True)),
    "pooling of one axis": ((2, 3, 8), lambda x: F.avg_pool1d(x, 2) + F.max_pool1d(x, 3, 2, 1)),
    "parts": (TOKENS, lambda x: sum(part * (at + 1) for at, part in enumerate(x.chunk(4, -1)))),
    "unbind": ((1, 3, 2, 4), lambda x: x.unbind(1)[0] - x.unbind(1)[2]),
}


RECURRENT = {
    "gru": lambda: nn.GRU(8, 5, batch_first=True),
    "lstm": lambda: nn.LSTM(8, 5, batch_first=True),
    "gru of two layers": lambda: nn.GRU(8, 5, num_layers=2, batch_first=True),
    "lstm in both directions": lambda: nn.LSTM(8, 5, num_layers=2, bidirectional=True, batch_first=True),
    "time first": lambda: nn.GRU(8, 5, bidirectional=True),
    "plain": lambda: nn.RNN(8, 5, num_layers=2, batch_first=True),
    "plain in both directions": lambda: nn.RNN(8, 5, nonlinearity="relu", bidirectional=True),
    "lstm with a projection": lambda: nn.LSTM(8, 5, num_layers=2, proj_size=3, batch_first=True),
    "without biases": lambda: nn.LSTM(8, 5, bias=False, batch_first=True),
}


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Recurrent(nn.Module):
    """What a recurrent layer gives, and its last states, as one."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        found, states = self.layer(x)
        states = states if isinstance(states, tuple) else (states,)
        return torch.cat([found.flatten(), *(state.flatten() for state in states)])


@pytest.mark.parametrize("name", FORMS)
def test_one_delegate_computes_it(name):
    shape, function = FORMS[name]
    check(Function(function), shape)


@pytest.mark.parametrize("name", RECURRENT)
def test_one_delegate_computes_a_recurrent_layer(name):
    torch.manual_seed(0)
    check(Recurrent(RECURRENT[name]()).eval(), TOKENS)


def test_what_has_no_form_is_computed_outside():
    emitted, found, expected = emit(Function(lambda x: x.amax() + x), TOKENS)
    assert [row.what.partition(" ")[0] for row in emitted.declined] == ["aten::amax"]
    torch.testing.assert_close(found, expected)


def test_no_picture_is_turned_for_a_norm_of_channels():
    _, function = FORMS["layer norm of channels"]
    assert "aten::permute_copy" not in emit(Function(function), PICTURE)[0].operators


def check(module, shape):
    emitted, found, expected = emit(module, shape)
    assert emitted.declined == ()
    assert emitted.delegates == {"xnnpack": 1}
    assert found.shape == expected.shape
    error = float((found - expected).square().sum())
    assert error <= 1e-9 * float(expected.square().sum()), math.sqrt(error)


def fp32(source):
    captured = run_passes(capture(source, dynamic_batch=False), TARGET.passes_for("fp32"))
    return QuantizedProgram(
        name="net",
        exported=captured.exported,
        precision="fp32",
        steps=captured.steps,
        unquantized=(),
        float_weight_bytes=0,
    )


def emit(module, shape):
    """Return the artifact, and what it and torch give."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    source = SourceModel(name="net", module=module, exported=None, example_inputs=(x,))
    emitted = Executorch.emit(fp32(source), TARGET.emit["pte"])
    (found,) = Engine.load(emitted.data, precise=True).run((x,))
    return emitted, found, module(x).detach()


class Turned(nn.Module):
    """A norm of channels whose scale is computed, and attention whose mask is read by others."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Linear(8, 8)

    def forward(self, x):
        scale = self.scale(x[:, :, 0, :8].mean(1)[0])
        normed = F.layer_norm(x.permute(0, 2, 3, 1), (8,), scale).permute(0, 3, 1, 2)
        tokens = x.flatten(2).mT
        mask = (tokens @ tokens.mT) > 0
        return normed, F.scaled_dot_product_attention(tokens, tokens, tokens, mask), mask.float().sum(-1)


def test_scales_that_are_computed_and_masks_that_are_read():
    x = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    module = Turned().eval()
    source = SourceModel(name="net", module=module, exported=None, example_inputs=(x,))
    program = fp32(source)
    found = Engine.load(Executorch.emit(program, TARGET.emit["pte"]).data, precise=True).run((x,))
    for value, expected in zip(found, module(x), strict=True):
        torch.testing.assert_close(value, expected.detach(), rtol=1e-4, atol=1e-4)
