"""Equalization: the same program in float, less noise in INT8."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from edgecompile.capture import capture
from edgecompile.dataset import Sample
from edgecompile.graph_pass import run_passes
from edgecompile.program import SourceModel
from edgecompile.progress import QuietProgress
from edgecompile.quantize.channels import channels_of
from edgecompile.quantize.equalize import apply_factors
from edgecompile.quantize.fit_channels import find_fit, fitted
from edgecompile.quantize.node_values import all_values
from edgecompile.target import load_target

TARGET = load_target("android-arm64")
PASSES = [entry.name for entry in TARGET.passes]


def fit(program, data, *, absorb=False):
    return find_fit(program, data, replace(TARGET.quantization, bias_absorption=absorb), QuietProgress())


def captured(module, *shape):
    source = SourceModel(
        name="net", module=module.eval(), exported=None, example_inputs=(torch.zeros(shape),)
    )
    return run_passes(capture(source, dynamic_batch=False), PASSES)


def values(program, inputs):
    with torch.no_grad():
        return program.exported.module(check_guards=False)(*inputs)


def samples(*shape, count=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [Sample(inputs=(torch.randn(shape, generator=generator),), label=None) for _ in range(count)]


class Uneven(nn.Module):
    """Channels with ranges of 100 to 1, between layers that could take up any scale."""

    def __init__(self, activation=F.relu):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.depthwise = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3, groups=16, padding=1)
        self.last, self.activation = nn.Conv2d(16, 8, 1), activation
        with torch.no_grad():
            spread = torch.logspace(-1, 1, 16).reshape(-1, 1, 1, 1)
            self.first.weight.mul_(spread)
            self.first.bias.mul_(spread.flatten())
            self.last.weight.div_(spread.flatten().reshape(1, -1, 1, 1))

    def forward(self, x):
        return self.last(self.activation(self.depthwise(self.activation(self.first(x)))))


class Randoms(nn.Module):
    """A network drawn by a seed: convolutions of all kinds, additions, concatenations, pooling."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        draw = torch.Generator().manual_seed(seed)
        self.steps = [int(torch.randint(7, (), generator=draw)) for _ in range(6)]
        self.layers = nn.ModuleList()
        channels = 4
        for step in self.steps:
            if step == 1:
                layer = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
            elif step == 2:
                layer = nn.Conv2d(channels, channels, 3, padding=1, groups=2, bias=False)
            else:
                layer = nn.Conv2d(channels, channels, 1)
            layer.weight.data *= torch.logspace(-1, 1, channels)[torch.randperm(channels)].reshape(
                -1, 1, 1, 1
            )
            self.layers.append(layer)
            channels *= 2 if step == 4 else 1
        self.head = nn.Linear(channels, 5)

    def forward(self, x):
        for step, layer in zip(self.steps, self.layers, strict=True):
            y = layer(x)
            y = F.relu6(y) if step % 2 else F.relu(y)
            if step == 3:
                y = y + x
            elif step == 4:
                y = torch.cat([x, y], 1)
            elif step == 5:
                y = F.max_pool2d(y, 3, 1, 1)
            elif step == 6:
                y = y * torch.sigmoid(layer(y))
            x = y
        return self.head(x.mean([2, 3]))


@pytest.mark.parametrize("activation", [F.relu, F.relu6])
def test_uneven_channels_become_even_and_nothing_changes_in_float(activation):
    program, data = captured(Uneven(activation), 1, 3, 8, 8), samples(1, 3, 8, 8)
    found = fit(program, data)
    assert found.gain_db > 6
    result = fitted(program, found)
    for sample in data:
        expected = values(program, sample.inputs)
        torch.testing.assert_close(values(result, sample.inputs), expected, rtol=1e-4, atol=1e-5)
    assert result.steps[-1].name == "equalize"
    assert result.steps[-1].rewrites == 3


@settings(max_examples=40)
@given(seed=st.integers(0, 2**31))
def test_any_network_is_the_same_in_float(seed):
    program, data = captured(Randoms(seed), 1, 4, 6, 6), samples(1, 4, 6, 6, seed=seed)
    result = fitted(program, fit(program, data))
    for sample in data:
        expected = values(program, sample.inputs)
        difference = (values(result, sample.inputs) - expected).norm()
        assert difference <= 1e-4 * expected.norm() + 1e-6


@settings(max_examples=40)
@given(seed=st.integers(0, 2**31))
def test_any_factors_of_free_channels_change_nothing(seed):
    program = captured(Randoms(seed), 1, 4, 6, 6)
    channels = channels_of(program.exported)
    fixed = channels.held.clone()
    for node in channels.clipped:
        fixed[channels.ids[node]] = True
    factor = torch.exp(torch.randn(channels.count, generator=torch.Generator().manual_seed(seed)))
    factor[fixed] = 1
    factors = {node.name: factor[ids] for node, ids in channels.ids.items()}
    result = apply_factors(program.exported, factors).program.module(check_guards=False)
    (sample,) = samples(1, 4, 6, 6, count=1, seed=seed)
    expected = values(program, sample.inputs)
    with torch.no_grad():
        torch.testing.assert_close(result(*sample.inputs), expected, rtol=1e-3, atol=1e-4)


def test_inputs_outputs_and_what_is_not_understood_keep_their_scale():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Conv2d(3, 3, 1) for _ in range(3))

        def forward(self, x):
            x = torch.sin(self.layers[0](x))
            return self.layers[2](F.relu(self.layers[1](x)))

    program = captured(Net(), 1, 3, 4, 4)
    channels = channels_of(program.exported)
    held = {
        node.name: bool(channels.held[ids].all()) for node, ids in channels.ids.items() if node.op != "output"
    }
    assert held == {
        "x": True,
        "conv2d": True,
        "sin": True,
        "conv2d_1": False,
        "relu": False,
        "conv2d_2": True,
    }


class PooledTokens(nn.Module):
    """Tokens whose channels, the last axis, are pooled as if they were places."""

    def __init__(self, window, stride):
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8 // stride, 4)
        self.window, self.stride = window, stride

    def forward(self, x):
        tokens = self.first(x).relu()
        return self.second(
            F.max_pool1d(tokens, self.window, self.stride, self.window // 2 * (self.stride == 1))
        )


@pytest.mark.parametrize(("window", "stride"), [(3, 1), (2, 2)])
def test_channels_that_are_pooled_as_places_keep_their_scale(window, stride):
    program = captured(PooledTokens(window, stride), 1, 5, 6)
    channels = channels_of(program.exported)
    (pool,) = program.exported.graph.find_nodes(op="call_function", target=torch.ops.aten.max_pool2d.default)
    assert channels.held[channels.ids[pool.args[0]]].all()
    assert channels.held[channels.ids[pool]].all()
    assert len(channels.ids[pool]) == pool.meta["val"].shape[channels.axis[pool]]
    fit(program, samples(1, 5, 6))


class Gru(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.GRU(16, 8, batch_first=True, bidirectional=True)

    def forward(self, x):
        return self.inner(x.flatten(2).permute(0, 2, 1))[0]


class Largest(nn.Module):
    def forward(self, x):
        return x.max(dim=1).values


@pytest.mark.parametrize("reader", [Gru(), Largest()], ids=["gru", "max"])
def test_what_an_operator_with_several_results_reads_keeps_its_scale(reader):
    program = captured(nn.Sequential(Uneven(), nn.Conv2d(8, 16, 1), nn.ReLU(), reader), 1, 3, 8, 8)
    channels = channels_of(program.exported)
    (several,) = [
        node
        for node in program.exported.graph.nodes
        if node.op == "call_function" and isinstance(node.meta["val"], tuple | list)
    ]
    assert channels.held[channels.ids[several.args[0]]].all()
    data = samples(1, 3, 8, 8)
    result = fitted(program, fit(program, data))
    assert result.steps[-1].rewrites > 0
    torch.testing.assert_close(
        values(result, data[0].inputs), values(program, data[0].inputs), rtol=1e-4, atol=1e-5
    )


def test_a_channel_that_reaches_the_clip_is_not_scaled():
    net = Uneven(F.relu6)
    net.first.weight.data *= 3
    program, data = captured(net, 1, 3, 8, 8), samples(1, 3, 8, 8)
    found = fit(program, data)
    clamp = next(iter(channels_of(program.exported).clipped))
    seen = torch.cat([all_values(program.exported, sample.inputs)[clamp] for sample in data])
    reaches = seen.amax((0, 2, 3)) == 6
    factor = found.factors[clamp.name]
    assert 0 < reaches.sum() < len(reaches)
    assert (factor[reaches] == 1).all()
    assert (factor[~reaches] > 1).any()


def test_even_channels_are_left_alone():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    program = captured(net, 1, 3, 8, 8)
    found = fit(program, samples(1, 3, 8, 8))
    assert (found.factors, found.gain_db) == ({}, 0.0)
    assert set(found.sensitivities) >= {"relu", "conv2d_1"}


@pytest.mark.parametrize("activation", [nn.Hardswish(), nn.SiLU(), nn.GELU()])
def test_factors_stand_beside_an_activation_in_float_and_nothing_changes(activation):
    program, data = captured(Uneven(activation), 1, 3, 8, 8), samples(1, 3, 8, 8)
    found = fit(program, data)
    assert found.gain_db > 6
    result = fitted(program, found)
    for sample in data:
        expected = values(program, sample.inputs)
        torch.testing.assert_close(values(result, sample.inputs), expected, rtol=1e-4, atol=1e-4)
    products = [node for node in result.exported.graph.nodes if node.target is torch.ops.aten.mul.Tensor]
    assert 2 <= len(products) <= 4
    assert set(result.sensitivities) >= {node.name for node in products if node.name.endswith("_scaled")}


def test_a_product_that_is_worth_little_is_left_out():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Hardswish(), nn.Conv2d(8, 4, 3))
    program = captured(net, 1, 3, 8, 8)
    result = fitted(program, fit(program, samples(1, 3, 8, 8)))
    assert not [node for node in result.exported.graph.nodes if node.target is torch.ops.aten.mul.Tensor]
