"""Networks with layer norms and linear layers on every position: ConvNeXt and a transformer's encoder."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class ConvNeXtBlock(nn.Module):
    """7x7 depthwise, layer norm and an MLP on the last axis, a scale per channel (Liu et al., 2022)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.filter = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.scale = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.norm(self.filter(x).permute(0, 2, 3, 1))
        hidden = self.scale * self.down(functional.gelu(self.up(hidden)))
        return x + hidden.permute(0, 3, 1, 2)


class PictureNorm(nn.LayerNorm):
    """A layer norm over the channels of a picture."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    """ConvNeXt-Pico's widths, with one or two blocks a stage."""

    def __init__(self, widths: tuple[int, ...] = (64, 128, 256), blocks: tuple[int, ...] = (1, 2, 1)) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, 4), PictureNorm(widths[0])]
        for index, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            if index:
                layers += [PictureNorm(widths[index - 1]), nn.Conv2d(widths[index - 1], width, 2, 2)]
            layers += [ConvNeXtBlock(width) for _ in range(count)]
        self.layers = nn.Sequential(*layers)
        self.norm, self.head = nn.LayerNorm(widths[-1]), nn.Linear(widths[-1], 100)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.layers(x).mean([2, 3])))


class EncoderLayer(nn.Module):
    """Attention and a feed-forward block, each with a layer norm before it (Vaswani et al., 2017)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.query, self.key, self.value, self.join = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, width = x.shape
        normed = self.norms[0](x)
        query, key, value = (
            layer(normed).view(batch, tokens, self.heads, width // self.heads).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        attended = functional.scaled_dot_product_attention(query, key, value)
        x = x + self.join(attended.transpose(1, 2).reshape(batch, tokens, width))
        return x + self.down(functional.gelu(self.up(self.norms[1](x))))


class Encoder(nn.Module):
    """Tokens to classes: embeddings, three layers, a layer norm, the mean over the tokens, a classifier."""

    def __init__(self, tokens: int = 200, longest: int = 24, width: int = 256, heads: int = 8) -> None:
        super().__init__()
        self.words = nn.Embedding(tokens, width)
        self.places = nn.Parameter(torch.randn(1, longest, width))
        self.layers = nn.Sequential(*(EncoderLayer(width, heads) for _ in range(3)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.layers(self.words(tokens) + self.places)).mean(1))
