"""Outlier channels behind layer norm: factors go into gamma and beta, and beside the norm; same in float."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_equalize import TARGET, captured, fit, samples, values
from torch import nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from edgecompile.capture import capture
from edgecompile.compare import closeness
from edgecompile.dataset import Dataset, Sample
from edgecompile.graph_pass import run_passes
from edgecompile.program import SourceModel
from edgecompile.progress import QuietProgress
from edgecompile.quantize.channels import channels_of
from edgecompile.quantize.equalize import apply_factors
from edgecompile.quantize.fit_channels import fitted
from edgecompile.quantize.static_int8 import quantize

WIDTH, TOKENS = 16, 6


class Block(nn.Module):
    """Attention and a feed-forward part, whose output has a channel far beyond the others."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value, self.attended = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.attention_norm, self.output_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        with torch.no_grad():
            self.down.weight[3] *= 60
            self.output_norm.weight[3] = 0.02  # as trained networks have it: what is large is scaled down

    def forward(self, x):
        layers = self.query, self.key, self.value
        parts = [layer(x).unflatten(2, (2, -1)).transpose(1, 2) for layer in layers]
        found = F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)
        x = self.attention_norm(x + self.attended(found))
        return self.output_norm(x + self.down(F.gelu(self.up(x))))


class Encoder(nn.Module):
    """Reads tokens: nothing that it is given is a real number."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.norm = nn.Embedding(50, WIDTH), nn.LayerNorm(WIDTH)
        self.blocks, self.head = nn.Sequential(Block(), Block()), nn.Linear(WIDTH, 4)

    def forward(self, tokens):
        return self.head(self.blocks(self.norm(self.embedding(tokens))))


def encoder():
    generator = torch.Generator().manual_seed(0)
    tokens = [torch.randint(50, (1, TOKENS), generator=generator) for _ in range(24)]
    source = SourceModel(name="encoder", module=Encoder().eval(), exported=None, example_inputs=(tokens[0],))
    program = run_passes(capture(source, dynamic_batch=False), [entry.name for entry in TARGET.passes])
    return program, [Sample(inputs=(own,), label=None) for own in tokens]


def sqnr_db(program, result, data):
    quantized = quantize(
        result, Dataset(samples=tuple(data), spec=""), TARGET.quantization, QuietProgress()
    ).exported.module(check_guards=False)
    with torch.no_grad():
        outputs = [(quantized(*sample.inputs),) for sample in data]
    return closeness(outputs, [(values(program, sample.inputs),) for sample in data]).sqnr_db


def test_outliers_of_a_transformer_that_reads_tokens_are_moved_into_gamma_and_weights():
    program, data = encoder()
    found = fit(program, data)
    assert {"linear_5", "layer_norm_1", "layer_norm_2"} <= set(found.factors)
    assert torch.equal(found.factors["layer_norm_1"], found.factors["linear_5"])  # they are added up
    assert found.factors["linear_5"][3] == found.factors["linear_5"].min()
    result = fitted(program, found)
    for sample in data:
        torch.testing.assert_close(
            values(result, sample.inputs), values(program, sample.inputs), rtol=1e-4, atol=1e-5
        )
    assert sqnr_db(program, result, data) > sqnr_db(program, program, data) + 6


class Normalized(nn.Module):
    """A network drawn by a seed: norms of all kinds, with and without gamma and beta, and residuals."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.kinds = torch.randint(5, (4,)).tolist()
        self.adds = torch.randint(2, (4,)).tolist()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in self.kinds)
        self.norms = nn.ModuleList(self.norm(kind) for kind in self.kinds)
        self.first, self.last = nn.Linear(8, WIDTH), nn.Linear(WIDTH, 4)
        for parameter in (*self.first.parameters(), *self.norms.parameters()):
            spread = torch.logspace(-1, 1, WIDTH)[torch.randperm(WIDTH)]
            parameter.data *= spread.reshape(-1, *[1] * (parameter.dim() - 1))

    @staticmethod
    def norm(kind):
        if kind == 4:
            return nn.GroupNorm(4, WIDTH)
        if kind == 3:
            return nn.RMSNorm(WIDTH)
        return nn.LayerNorm(WIDTH, elementwise_affine=kind > 0, bias=kind > 1)

    def forward(self, x):
        x = self.first(x)
        for kind, add, layer, norm in zip(self.kinds, self.adds, self.layers, self.norms, strict=True):
            y = F.relu(layer(x))
            y = y + x if add else y
            x = norm(y.transpose(1, 2)).transpose(1, 2) if kind == 4 else norm(y)
        return self.last(x)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**31))
def test_any_factors_of_free_channels_around_norms_change_nothing(seed):
    program = captured(Normalized(seed), 1, TOKENS, 8)
    channels = channels_of(program.exported)
    factor = torch.exp(torch.randn(channels.count, generator=torch.Generator().manual_seed(seed)))
    factor[channels.held] = 1
    factors = {node.name: factor[ids] for node, ids in channels.ids.items()}
    result = apply_factors(program.exported, factors).program.module(check_guards=False)
    (sample,) = samples(1, TOKENS, 8, count=1, seed=seed)
    with torch.no_grad():
        torch.testing.assert_close(
            result(*sample.inputs), values(program, sample.inputs), rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize("kind", range(4))
def test_each_norm_lets_its_channels_go_free(kind):
    net = nn.Sequential(nn.Linear(8, WIDTH), Normalized.norm(kind), nn.Linear(WIDTH, 4))
    channels = channels_of(captured(net, 1, TOKENS, 8).exported)
    free = {node.target for node, ids in channels.ids.items() if not channels.held[ids].any()}
    assert free & {torch.ops.aten.layer_norm.default, torch.ops.aten.rms_norm.default}


def test_a_norm_over_two_axes_keeps_its_scale():
    net = nn.Sequential(nn.Linear(8, WIDTH), nn.LayerNorm((TOKENS, WIDTH)), nn.Linear(WIDTH, 4))
    channels = channels_of(captured(net, 1, TOKENS, 8).exported)
    assert all(
        channels.held[ids].all()
        for node, ids in channels.ids.items()
        if node.target is torch.ops.aten.layer_norm.default
    )
