"""Small networks put together at random from blocks that treat channels in all ways that networks do."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional

from edgecompile.pruning.channel_groups import ChannelGroups

LARGEST = 12  # pixels along a side
WIDEST = 24


class Block(nn.Module):
    """A function of a picture (N, C, H, W) with modules or parameters of its own."""

    def __init__(self, function: Callable[..., torch.Tensor], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self, x)


Drawn = Callable[[Sequence[int]], int]
"""Draws one of several numbers."""


def _divisor(number: int, draw: Drawn) -> int:
    return draw([divisor for divisor in range(1, number + 1) if number % divisor == 0])


def _width(draw: Drawn) -> int:
    return draw([4, 6, 8, 12])


def convolution(channels: int, side: int, draw: Drawn) -> nn.Module:
    kernel = draw([1, 3])
    stride = draw([1, 2])
    return nn.Conv2d(channels, _width(draw), kernel, stride, kernel // 2, bias=bool(draw([0, 1])))


def grouped_convolution(channels: int, side: int, draw: Drawn) -> nn.Module:
    groups = _divisor(channels, draw)
    return nn.Conv2d(channels, groups * draw([1, 2, 3]), 3, padding=1, groups=groups)


def transposed_convolution(channels: int, side: int, draw: Drawn) -> nn.Module:
    groups = _divisor(channels, draw)
    return nn.ConvTranspose2d(channels, groups * draw([1, 2, 4]), 2, stride=draw([1, 2]), groups=groups)


def norm(channels: int, side: int, draw: Drawn) -> nn.Module:
    kind = draw([0, 1, 2, 3])
    if kind == 0:
        return nn.BatchNorm2d(channels)
    if kind == 1:
        return nn.InstanceNorm2d(channels, affine=True)
    if kind == 2:
        return nn.GroupNorm(_divisor(channels, draw), channels)

    def over_channels(own: Block, x: torch.Tensor) -> torch.Tensor:
        return own.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    return Block(over_channels, norm=nn.LayerNorm(channels) if draw([0, 1]) else nn.RMSNorm(channels))


def activation(channels: int, side: int, draw: Drawn) -> nn.Module:
    kinds = (nn.ReLU6(), nn.Sigmoid(), nn.Hardswish(), nn.GELU(), nn.PReLU(channels), nn.Softplus(), nn.ELU())
    return kinds[draw(range(len(kinds)))]


def residual(channels: int, side: int, draw: Drawn) -> nn.Module:
    inner = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels))
    return Block(lambda own, x: x + own.inner(x), inner=inner)


def gate(channels: int, side: int, draw: Drawn) -> nn.Module:
    squeeze, excite = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def gated(own: Block, x: torch.Tensor) -> torch.Tensor:
        means = x.mean([2, 3], keepdim=True)
        return x * functional.hardsigmoid(own.excite(functional.relu(own.squeeze(means))))

    return Block(gated, squeeze=squeeze, excite=excite)


def joined(channels: int, side: int, draw: Drawn) -> nn.Module:
    return Block(lambda own, x: torch.cat([own.one(x), x], 1), one=nn.Conv2d(channels, _width(draw), 1))


def split(channels: int, side: int, draw: Drawn) -> nn.Module:
    if channels % 2:
        return nn.Identity()
    kind = draw(range(5))
    layer = nn.Conv2d(channels // 2, channels // 2, 3, padding=1)

    def function(own: Block, x: torch.Tensor) -> torch.Tensor:
        if kind == 0:
            one, two = x.chunk(2, 1)
            return one * torch.sigmoid(two)
        if kind == 1:
            one, two = torch.split(x, [channels // 2, channels // 2], 1)
            return torch.cat([own.layer(one), two], 1)
        if kind == 2:
            return own.layer(x[:, channels // 2 :])
        if kind == 3:
            return functional.glu(x, 1)
        one, two = x.unflatten(1, (2, channels // 2)).unbind(1)
        return torch.cat([two, own.layer(one)], 1)

    return Block(function, layer=layer)


def shuffle(channels: int, side: int, draw: Drawn) -> nn.Module:
    groups = _divisor(channels, draw)

    def function(own: Block, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(1, (groups, channels // groups)).swapaxes(1, 2).flatten(1, 2)

    return Block(function) if draw([0, 1]) else nn.ChannelShuffle(groups)


def pixels(channels: int, side: int, draw: Drawn) -> nn.Module:
    if side % 2 == 0 and draw([0, 1]):
        return nn.PixelUnshuffle(2)
    return nn.PixelShuffle(2) if channels % 4 == 0 else nn.Identity()


def pooling(channels: int, side: int, draw: Drawn) -> nn.Module:
    kinds = (
        nn.MaxPool2d(2, ceil_mode=True),
        nn.AvgPool2d(3, 1, 1),
        nn.AdaptiveAvgPool2d(2),
        nn.Upsample(scale_factor=2, mode="nearest"),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        Block(lambda own, x: functional.pad(x, (1, 0, 1, 0))),
    )
    return kinds[draw(range(len(kinds)))]


def arithmetic(channels: int, side: int, draw: Drawn) -> nn.Module:
    kind = draw(range(10))
    scale = nn.Parameter(torch.rand(channels, 1, 1) + 0.5)

    def function(own: Block, x: torch.Tensor) -> torch.Tensor:
        if kind == 0:
            return x * own.scale
        if kind == 1:
            return x - x.mean(1, keepdim=True)
        if kind == 2:
            return own.scale - x.clamp(-1, 1)
        if kind == 3:
            return torch.stack([x, x * 2], 1).sum(1)
        if kind == 4:
            return x / (1 + x.square().sum(1, keepdim=True).sqrt())
        if kind == 5:
            return functional.normalize(x, dim=1)
        if kind == 6:  # the global response normalization of ConvNeXt V2
            norms = x.norm(dim=(2, 3), keepdim=True)
            return x + own.scale * x * (norms / (norms.mean(1, keepdim=True) + 1e-6))
        if kind == 7:
            return x * functional.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1)[:, :, None, None]
        if kind == 8:
            return x.flip(3) * x.amax((2, 3), keepdim=True) + x.max(2, keepdim=True)[0]
        return torch.where(x > 0, x, own.scale)

    return Block(function, scale=scale)


def pointwise(channels: int, side: int, draw: Drawn) -> nn.Module:
    layers = nn.Sequential(nn.Linear(channels, 16), nn.GELU(), nn.Linear(16, channels))
    return Block(lambda own, x: own.layers(x.movedim(1, -1)).movedim(-1, 1) + x, layers=layers)


def attention(channels: int, side: int, draw: Drawn) -> nn.Module:
    heads, width, kind = draw([1, 2, 4]), draw([2, 4]), draw([0, 1, 2, 3])
    inner = heads * width
    parts = {"joint": nn.Linear(channels, 3 * inner), "out": nn.Linear(inner, channels)}
    parts |= {name: nn.Linear(channels, inner) for name in ("query", "key", "value")}

    def function(own: Block, x: torch.Tensor) -> torch.Tensor:
        rows = x.flatten(2).transpose(1, 2)  # (N, H * W, C)
        if kind == 3:
            merged = own.joint(rows).unflatten(-1, (3, heads, width)).permute(2, 0, 3, 1, 4)
            query, key, value = merged.unbind(0)
        else:
            layers = (own.query, own.key, own.value)
            several = own.joint(rows).chunk(3, -1) if kind == 2 else [layer(rows) for layer in layers]
            query, key, value = (one.unflatten(-1, (heads, width)).transpose(1, 2) for one in several)
        if kind == 0:
            attended = torch.softmax(query @ key.transpose(-2, -1) / width**0.5, -1) @ value
        else:
            attended = functional.scaled_dot_product_attention(query, key, value)
        found = own.out(attended.transpose(1, 2).flatten(2)).transpose(1, 2)
        return x + found.unflatten(2, x.shape[2:])

    return Block(function, **parts)


BLOCKS = (
    convolution,
    grouped_convolution,
    transposed_convolution,
    norm,
    activation,
    residual,
    gate,
    joined,
    split,
    shuffle,
    pixels,
    pooling,
    arithmetic,
    pointwise,
    attention,
)


class RandomNetwork(nn.Module):
    """Blocks one after the other, and an end that gives one output or two."""

    def __init__(self, blocks: Sequence[nn.Module], channels: int, side: int, draw: Drawn) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.end = draw(range(4))
        self.flat, self.head = nn.Linear(channels * side * side, 5), nn.Linear(channels, 5)
        self.last = nn.Conv2d(channels, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        for block in self.blocks:
            x = block(x)
        if self.end == 0:
            return self.head(x.mean([2, 3]))
        if self.end == 1:
            return self.flat(torch.flatten(x, 1))
        if self.end == 2:
            return self.last(x), self.head(x.amax([2, 3]))
        return x.norm(dim=1) if x.shape[1] > 1 else x


def random_network(draw: Drawn) -> RandomNetwork:
    """Return a network for (N, 3, 8, 8) whose blocks and sizes are drawn."""
    torch.manual_seed(draw(range(1000)))
    blocks: list[nn.Module] = [nn.Conv2d(3, _width(draw), 3, padding=1)]
    for _ in range(draw(range(1, 7))):
        _, channels, side, _ = _shape(blocks)
        blocks.append(BLOCKS[draw(range(len(BLOCKS)))](channels, side, draw))
        _, channels, side, _ = _shape(blocks)
        if channels > WIDEST or side > LARGEST or side < 1:
            blocks.pop()
    _, channels, side, _ = _shape(blocks)
    network = RandomNetwork(blocks, channels, side, draw)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -0.5, 0.5)
            nn.init.uniform_(layer.running_var, 0.5, 2)
        if isinstance(layer, nn.BatchNorm2d | nn.LayerNorm | nn.GroupNorm | nn.InstanceNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 2)
            nn.init.uniform_(layer.bias, -0.5, 0.5)
    return network.eval()


@torch.no_grad()
def _shape(blocks: Sequence[nn.Module]) -> tuple[int, ...]:
    return tuple(nn.Sequential(*blocks).eval()(torch.zeros(2, 3, 8, 8)).shape)


def random_keep(groups: ChannelGroups, seed: int, share: float) -> torch.Tensor:
    """Return what stays when units go at random until a share is gone, or a layer is two wide.

    One channel less its mean would be nothing but rounding.
    """
    generator = torch.Generator().manual_seed(seed)
    keep = torch.ones(groups.count, dtype=torch.bool)
    widths = [labels.ids.reshape(-1) for several in groups.of_constants.values() for labels in several]
    removable = groups.removable.nonzero().flatten()
    order = removable[torch.randperm(len(removable), generator=generator)]
    for unit in order[: round(share * len(order))].tolist():
        keep[unit] = False
        if any(int(keep[width].sum()) < 2 and bool((width == unit).any()) for width in widths):
            keep[unit] = True
    return keep
