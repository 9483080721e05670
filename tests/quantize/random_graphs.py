"""Random small networks for hypothesis: what they are made of, and how they run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "silu": F.silu,
    "gelu": F.gelu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "elu": F.elu,
    "leaky relu": lambda x: F.leaky_relu(x, 0.1),
    "clamp": lambda x: x.clamp(-0.5, 0.75),
    "mish": F.mish,
    "selu": F.selu,
    "celu": lambda x: F.celu(x, 0.5),
    "log sigmoid": F.logsigmoid,
    "softplus": F.softplus,
}
# What changes a picture, (N, C, H, W), without weights; C and H and W are even.
MOVES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "max pool": lambda x: F.max_pool2d(x, 3, 2, 1),
    "average pool": lambda x: F.avg_pool2d(x, 3, 1, 1),
    "average pool without padding": lambda x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False),
    "nearest": lambda x: F.interpolate(x, scale_factor=2),
    "bilinear": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "shuffle": lambda x: x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2),
    "pixel unshuffle": lambda x: F.pixel_unshuffle(x, 2)[:, ::2],
    "zero padding": lambda x: F.pad(x, (1, 1, 2, 0)),
    "padding": lambda x: F.pad(x, (1, 1, 1, 1), value=0.3),
    "reflection": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "halves": lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
    "sum of halves": lambda x: torch.cat([sum(x.chunk(2, 1)), x], 1),
    "means": lambda x: x + x.mean((2, 3), keepdim=True),
    "mean of channels": lambda x: x * x.mean(1, keepdim=True),
    "doubled": lambda x: 2 * x + 1,
    "softmax": lambda x: x.softmax(1),
    "softmax of rows": lambda x: x.softmax(-1),
    "twice": lambda x: torch.cat([x, x], 1),
    "roll": lambda x: x.roll((1, 1), (2, 3)),
    "flip": lambda x: x.flip(3),
    "square": lambda x: x**2,
    "transposed": lambda x: x.transpose(2, 3),
    "largest": lambda x: x - x.amax((2, 3), keepdim=True),
    "group norm": lambda x: F.group_norm(x, 2),
    "instance norm": F.instance_norm,
    "log softmax": lambda x: x.log_softmax(1),
    "every other": lambda x: x[:, :, ::2, ::2],
    "replicas": lambda x: F.pad(x, (1, 1, 2, 1), mode="replicate"),
    "around": lambda x: F.pad(x, (1, 1, 1, 1), mode="circular"),
    "repeated": lambda x: x.repeat(1, 1, 1, 2),
    "each twice": lambda x: x.repeat_interleave(2, 2),
    "picked": lambda x: x[:, [1, 0]],
    "products": lambda x: x @ x.mT,
    "products that broadcast": lambda x: x @ x[:, :1].mT,
    "padding before a maximum": lambda x: F.max_pool2d(F.pad(x, (1, 1, 1, 1), value=-torch.inf), 3, 2),
    "sum of channels": lambda x: x + x.sum(1, keepdim=True),
    "deviations": lambda x: x / (x.var(1, keepdim=True) + 1).sqrt(),
    "pooled rows": lambda x: F.max_pool1d(x.flatten(1, 2), 2).unflatten(1, x.shape[1:3]),
    "averaged rows": lambda x: F.avg_pool1d(x.flatten(1, 2), 3, 1, 1).unflatten(1, x.shape[1:3]),
    "bicubic": lambda x: F.interpolate(x, scale_factor=1.5, mode="bicubic"),
    "overlapping means": lambda x: F.adaptive_avg_pool2d(x, 3),
    "assigned": lambda x: x.slice_scatter(x[:, :1].tanh(), 1, 1, 2),
    "probabilities beside": lambda x: torch.cat([x.sigmoid(), x], 1),
    "a choice": lambda x: torch.where(x > 0, x * x, 0.1 * x),  # which no activation is
    "attention with itself": lambda x: F.scaled_dot_product_attention(x, x, x),
    "means beyond the end": lambda x: F.avg_pool2d(x, 3, 2, ceil_mode=True),
    "sums of windows": lambda x: F.avg_pool2d(x, 2, 1, divisor_override=2),
    "a computed kernel": lambda x: F.conv2d(x, x[:, :, :3, :3].tanh().expand(2, -1, -1, -1), padding=1),
    "standardized": lambda x: (x - x.mean((2, 3), True)) / (x.std((2, 3), keepdim=True) + 0.1),
    "likeness": lambda x: x * F.cosine_similarity(x, x.flip(1), dim=1).unsqueeze(1),
    "by its logarithm": lambda x: x - x.logsumexp(1, keepdim=True),
    "turned": lambda x: torch.rot90(x, 1, (2, 3)),
    "cropped": lambda x: F.pad(x, (-1, 1, 1, -1)),
    "one minus": lambda x: 1 - x,
    "rows enlarged": lambda x: F.interpolate(x.flatten(1, 2), scale_factor=2).unflatten(1, x.shape[1:3]),
    "shrunk": lambda x: F.softshrink(x, 0.1),
    "channels apart": lambda x: torch.stack([x[:, 0], x[:, 1]], 1),
}
BINARY: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "add": torch.add,
    "mul": torch.mul,
    "sub": torch.sub,
    "cat": lambda x, y: torch.cat([x, y], 1),
    "maximum": torch.maximum,
}
_LARGEST = 16
_LARGEST_VALUE = 8.0
_MOST_CHANNELS = 12


@dataclass(frozen=True)
class Step:
    """One step: its kind, a name within it, and numbers that it may use."""

    kind: str
    name: str = ""
    numbers: tuple[int, ...] = ()


class _ChannelNorm(nn.LayerNorm):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _Gate(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, 4, 1),
            nn.ReLU(),
            nn.Conv2d(4, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.layers(x)


class _Attention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads, self.out = nn.Linear(channels, 24), nn.Linear(8, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        query, key, value = self.heads(tokens).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return (tokens + self.out(mixed)).transpose(1, 2).reshape(x.shape)


class _MaskedAttention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = nn.Linear(channels, 3 * channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        kept = torch.ones(tokens.shape[1], tokens.shape[1]).tril(-1).bool()
        mixed = F.scaled_dot_product_attention(*self.heads(tokens).chunk(3, -1), kept)
        return (tokens + mixed).transpose(1, 2).reshape(x.shape)


class _Block(nn.Module):
    """A block of ConvNeXt, whose linear layers have the channels last (Liu et al. 2022)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.layers = nn.Sequential(
            nn.LayerNorm(channels), nn.Linear(channels, 8), nn.GELU(), nn.Linear(8, channels)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(self.spatial(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _Recurrent(nn.Module):
    """A recurrent layer over the columns of the mean row, and a cell for what comes after."""

    def __init__(self, channels: int, layer: type[nn.RNNBase]) -> None:
        super().__init__()
        self.layer = layer(channels, channels, batch_first=True, bidirectional=channels % 4 == 0)
        self.cell = nn.GRUCell(channels * (1 + self.layer.bidirectional), channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = self.layer(x.mean(2).transpose(1, 2))[0][:, -1]
        return x + self.cell(found, x[:, :, 0, 0].tanh())[:, :, None, None]


class _Mlp(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(channels), nn.Linear(channels, 8), nn.GELU(), nn.Linear(8, channels)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        return (tokens + self.layers(tokens)).transpose(1, 2).reshape(x.shape)


class _Scale(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(channels, 1, 1) + 0.5)
        self.shift = nn.Parameter(torch.randn(channels, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale + self.shift


# What has weights for so many channels.
PARTS: dict[str, Callable[[int], nn.Module]] = {
    "layer norm": _ChannelNorm,
    "gate": _Gate,
    "attention": _Attention,
    "masked attention": _MaskedAttention,
    "mlp": _Mlp,
    "block": _Block,
    "gru": lambda channels: _Recurrent(channels, nn.GRU),
    "lstm": lambda channels: _Recurrent(channels, nn.LSTM),
    "rnn": lambda channels: _Recurrent(channels, nn.RNN),
    "transposed": lambda channels: nn.ConvTranspose2d(channels, channels, 4, 2, 1),
    "scale": _Scale,
    "prelu": nn.PReLU,
}

steps = st.lists(
    st.one_of(
        st.builds(
            lambda *numbers: Step("conv", numbers=numbers),
            st.sampled_from([1, 2, 4, 6, 8]),
            st.sampled_from([1, 3]),
            st.sampled_from([1, 1, 2]),
            st.booleans(),
            st.booleans(),
        ),
        st.sampled_from([Step("activation", name) for name in ACTIVATIONS]),
        st.sampled_from([Step("move", name) for name in MOVES]),
        st.builds(
            lambda name, back: Step("binary", name, (back,)),
            st.sampled_from(sorted(BINARY)),
            st.integers(1, 4),
        ),
        st.sampled_from([Step(kind) for kind in ("norm", *PARTS)]),
    ),
    min_size=2,
    max_size=8,
)  # fmt: skip


class RandomNet(nn.Module):
    """The steps one after another, between two convolutions; those that do not fit a shape do nothing.

    Nor do those whose values are large: squares of squares leave what was calibrated with other inputs.
    """

    def __init__(self, program: list[Step], seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.program = program
        self.parts = nn.ModuleDict()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.recording = True
        self.left_out: set[int] = set()
        with torch.no_grad():
            self(torch.randn(1, 3, 8, 8))
        self.recording = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = [self.first(x)]
        for index, step in enumerate(self.program):
            if index in self.left_out:
                continue
            value = self.step(str(index), step, seen)
            if self.recording and value.abs().max() > _LARGEST_VALUE:
                self.left_out.add(index)
                continue
            channels, *sizes = value.shape[1:]
            if channels <= _MOST_CHANNELS and 2 < min(sizes) <= max(sizes) <= _LARGEST:
                seen.append(value)
        return self.part("last", lambda: nn.Conv2d(seen[-1].shape[1], 5, 1))(seen[-1])

    def step(self, key: str, step: Step, seen: list[torch.Tensor]) -> torch.Tensor:
        x = seen[-1]
        channels, is_even = x.shape[1], all(size % 2 == 0 for size in x.shape[1:])
        if step.kind == "activation":
            return ACTIVATIONS[step.name](x)
        if step.kind == "move":
            return MOVES[step.name](x) if is_even else x
        if step.kind == "binary":
            other = seen[-1 - min(step.numbers[0], len(seen) - 1)]
            fits = other.shape == x.shape or (step.name == "cat" and other.shape[2:] == x.shape[2:])
            return BINARY[step.name](x, other) if fits else x
        return self.part(key, lambda: _module(step, channels))(x)

    def part(self, key: str, make: Callable[[], nn.Module]) -> Any:
        if self.recording and key not in self.parts:
            self.parts[key] = make().eval()
        return self.parts[key]


def _module(step: Step, channels: int) -> nn.Module:
    if step.kind == "conv":
        width, kernel, stride, depthwise, bias = step.numbers
        groups, outputs = (channels, channels) if depthwise else (1, width)
        return nn.Conv2d(channels, outputs, kernel, stride, kernel // 2, groups=groups, bias=bool(bias))
    if step.kind == "norm":
        norm = nn.BatchNorm2d(channels)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.2)
        nn.init.uniform_(norm.running_var, 0.5, 2)
        return norm
    return PARTS[step.kind](channels)
