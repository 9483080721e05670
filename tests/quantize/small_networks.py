"""The architectures that people bring, in reduced size: what makes each what it is, a few blocks deep."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)


def conv(
    inputs: int,
    outputs: int,
    kernel: int = 1,
    stride: int = 1,
    *,
    groups: int = 1,
    act: nn.Module | None = None,
) -> nn.Sequential:
    """Convolution, batch norm, activation."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), act or nn.Identity())


class Gate(nn.Module):
    """Squeeze and excite (Hu et al. 2018)."""

    def __init__(self, channels: int, inner: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        squeezed = channels // 4
        self.layers = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            inner,
            nn.Conv2d(squeezed, channels, 1),
            gate,
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.layers(x)


class Inverted(nn.Module):
    """Expand, filter depthwise, squeeze and excite, project (Sandler et al. 2018)."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, act: type[nn.Module], gate: nn.Module
    ) -> None:
        super().__init__()
        hidden = 4 * inputs
        self.layers = nn.Sequential(
            conv(inputs, hidden, act=act()),
            conv(hidden, hidden, kernel, stride, groups=hidden, act=act()),
            Gate(hidden, nn.ReLU() if act is nn.Hardswish else act(), gate),
            conv(hidden, outputs),
        )
        self.is_residual = inputs == outputs and stride == 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x) if self.is_residual else self.layers(x)


def mobilenet_v3() -> nn.Module:
    """Hard-swish, hard-sigmoid gates (Howard et al. 2019)."""
    blocks = [
        Inverted(16, 16, 3, 2, nn.Hardswish, nn.Hardsigmoid()),
        Inverted(16, 16, 5, 1, nn.Hardswish, nn.Hardsigmoid()),
    ]
    head = [
        conv(16, 32, act=nn.Hardswish()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 40),
        nn.Hardswish(),
    ]
    return nn.Sequential(conv(3, 16, 3, 2, act=nn.Hardswish()), *blocks, *head, nn.Linear(40, 10))


def efficientnet() -> nn.Module:
    """SiLU, sigmoid gates (Tan and Le 2019)."""
    blocks = [Inverted(8, 16, 3, 2, nn.SiLU, nn.Sigmoid()), Inverted(16, 16, 5, 1, nn.SiLU, nn.Sigmoid())]
    head = [
        conv(16, 32, act=nn.SiLU()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(32, 10),
    ]
    return nn.Sequential(conv(3, 8, 3, 2, act=nn.SiLU()), *blocks, *head)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of a picture."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class NextBlock(nn.Module):
    """A depthwise convolution, layer norm, an MLP, layer scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.scale = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixed = self.scale * self.mlp(self.depthwise(x).permute(0, 2, 3, 1))
        return x + mixed.permute(0, 3, 1, 2)


def convnext() -> nn.Module:
    """ConvNeXt (Liu et al. 2022)."""
    stem = [nn.Conv2d(3, 16, 4, 4), ChannelNorm(16), NextBlock(16), NextBlock(16)]
    down = [ChannelNorm(16), nn.Conv2d(16, 24, 2, 2), NextBlock(24)]
    return nn.Sequential(
        *stem, *down, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(24), nn.Linear(24, 10)
    )


class Attention(nn.Module):
    """Multi-head self-attention over (N, L, C)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.mixed, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        parts = self.mixed(x).reshape(batch, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        return self.out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(x.shape))


class PreNorm(nn.Module):
    """A transformer's block with the norms first."""

    def __init__(self, width: int, heads: int, act: nn.Module) -> None:
        super().__init__()
        self.first, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), act, nn.Linear(2 * width, width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.first(x))
        return x + self.mlp(x)


class MobileVit(nn.Module):
    """Local convolutions, attention among the pixels of patches, fusion (Mehta and Rastegari 2022)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            conv(3, 8, 3, 2, act=nn.SiLU()), Inverted(8, 16, 3, 2, nn.SiLU, nn.Sigmoid())
        )
        self.local = nn.Sequential(conv(16, 16, 3, act=nn.SiLU()), nn.Conv2d(16, 24, 1, bias=False))
        self.blocks = nn.Sequential(PreNorm(24, 4, nn.SiLU()), PreNorm(24, 4, nn.SiLU()), nn.LayerNorm(24))
        self.project, self.fuse = conv(24, 16, act=nn.SiLU()), conv(32, 16, 3, act=nn.SiLU())
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        local = self.local(x)
        batch, width, rows, columns = local.shape
        # (N * C * H/2, 2, W/2, 2) -> (N, C, patches, 4) -> (N * 4, patches, C)
        patches = local.reshape(batch * width * rows // 2, 2, columns // 2, 2).transpose(1, 2)
        patches = patches.reshape(batch, width, rows * columns // 4, 4).permute(0, 3, 2, 1)
        patches = self.blocks(patches.reshape(batch * 4, -1, width))
        pixels = patches.reshape(batch, 4, -1, width).permute(0, 3, 2, 1)
        pixels = pixels.reshape(batch * width * rows // 2, columns // 2, 2, 2).transpose(1, 2)
        x = self.fuse(torch.cat([x, self.project(pixels.reshape(local.shape))], 1))
        return self.head(x.mean((2, 3)))


class Bert(nn.Module):
    """Token and position embeddings, post-norm blocks with a padding mask, a pooler (Devlin et al. 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.positions, self.norm = nn.Embedding(50, 32), nn.Embedding(16, 32), nn.LayerNorm(32)
        self.query, self.key, self.value, self.out = (nn.Linear(32, 32) for _ in range(4))
        self.first, self.second = nn.LayerNorm(32), nn.LayerNorm(32)
        self.up, self.down, self.pooler, self.head = (
            nn.Linear(32, 64),
            nn.Linear(64, 32),
            nn.Linear(32, 32),
            nn.Linear(32, 3),
        )

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        length = tokens.shape[1]
        x = self.norm(self.words(tokens) + self.positions(torch.arange(length)))
        query, key, value = (
            layer(x).view(-1, length, 4, 8).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(-1, -2) / math.sqrt(8)
        scores = scores + (1.0 - mask[:, None, None, :].float()) * -1e4
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).reshape(x.shape)
        x = self.first(x + self.out(mixed))
        x = self.second(x + self.down(F.gelu(self.up(x))))
        return self.head(torch.tanh(self.pooler(x[:, 0])))


class Decoder(nn.Module):
    """Attention to what came before and is no padding; padding comes first, and attends to nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(50, 32), nn.Linear(32, 3)
        self.blocks = nn.ModuleList(nn.ModuleList([nn.Linear(32, 96), nn.Linear(32, 32)]) for _ in range(2))
        self.register_buffer("before", torch.ones(12, 12).tril().bool())

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.words(tokens)
        kept = (mask > 0)[:, None, None, :] & self.before
        for project, out in self.blocks:
            heads = project(x).view(-1, 12, 3, 4, 8).permute(2, 0, 3, 1, 4)
            x = x + out(F.scaled_dot_product_attention(*heads, kept).transpose(1, 2).reshape(x.shape))
        return self.head(x)


class Spotter(nn.Module):
    """A keyword spotter: a convolution over (N, time, features), a recurrent layer, its last state."""

    def __init__(self, recurrent: type[nn.RNNBase]) -> None:
        super().__init__()
        self.front = nn.Conv1d(10, 16, 3, padding=1)
        self.recurrent = recurrent(16, 12, batch_first=True)
        self.head = nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.front(x.transpose(1, 2))).transpose(1, 2)
        return self.head(self.recurrent(x)[0][:, -1])


class UNet(nn.Module):
    """Down, up with a transposed and a resized convolution, skips (Ronneberger et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        relu = nn.ReLU
        self.down = nn.ModuleList(
            [conv(3, 8, 3, act=relu()), conv(8, 16, 3, act=relu()), conv(16, 16, 3, act=relu())]
        )
        self.transposed = nn.ConvTranspose2d(16, 16, 2, 2)
        self.up = nn.ModuleList([conv(32, 8, 3, act=relu()), conv(16, 8, 3, act=relu())])
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.down[0](x)
        second = self.down[1](F.max_pool2d(first, 2))
        third = self.down[2](F.max_pool2d(second, 2))
        x = self.up[0](torch.cat([self.transposed(third), second], 1))
        x = F.interpolate(x, scale_factor=2, mode="bilinear")
        return self.head(self.up[1](torch.cat([x, first], 1)))


class Detector(nn.Module):
    """A feature pyramid with boxes and class scores for each of two levels (Lin et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(conv(3, 8, 3, 2, act=nn.ReLU6()), conv(8, 16, 3, 2, act=nn.ReLU6()))
        self.deeper = conv(16, 16, 3, 2, act=nn.ReLU6())
        self.lateral, self.smooth = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 3, padding=1)
        self.boxes, self.classes = nn.Conv2d(16, 8, 3, padding=1), nn.Conv2d(16, 6, 3, padding=1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        fine = self.backbone(x)
        coarse = self.deeper(fine)
        fine = self.smooth(self.lateral(fine) + F.interpolate(coarse, scale_factor=2))
        boxes = [self.boxes(level).permute(0, 2, 3, 1).reshape(x.shape[0], -1, 4) for level in (fine, coarse)]
        scores = [
            self.classes(level).permute(0, 2, 3, 1).reshape(x.shape[0], -1, 3) for level in (fine, coarse)
        ]
        return torch.cat(boxes, 1), torch.cat(scores, 1).sigmoid()


def settled(module: nn.Module) -> nn.Module:
    """Give batch norms statistics and weights that are not those of a fresh network."""
    for item in module.modules():
        if isinstance(item, nn.BatchNorm2d):
            nn.init.uniform_(item.weight, 0.8, 1.5)
            nn.init.normal_(item.bias, std=0.3)
            nn.init.normal_(item.running_mean, std=0.1)
            nn.init.uniform_(item.running_var, 0.1, 0.3)
    return module.eval()
