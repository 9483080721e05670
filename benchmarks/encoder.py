"""Transformer encoders with random weights: four layers on (1, 64, 128); 302 million parameters."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional

TOKENS = 64


class Layer(nn.Module):
    """Attention and a feed-forward block, each with a layer norm before it and a residual around it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.split, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, T, width) to the same."""
        batch, tokens, width = x.shape
        parts = self.split(self.norms[0](x)).view(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)  # (N, heads, T, width / heads)
        attended = functional.scaled_dot_product_attention(query, key, value)
        x = x + self.join(attended.transpose(1, 2).reshape(batch, tokens, width))
        return x + self.down(functional.gelu(self.up(self.norms[1](x))))


def _encoder(layers: int, width: int, heads: int) -> tuple[nn.Module, tuple[torch.Tensor]]:
    torch.manual_seed(0)
    network = nn.Sequential(*(Layer(width, heads) for _ in range(layers)))
    return network.eval(), (torch.rand(1, TOKENS, width),)


def model() -> tuple[nn.Module, tuple[torch.Tensor]]:
    """The small network in eval mode, with an example input: 0.8 million parameters."""
    return _encoder(4, 128, 4)


def calibration() -> Iterator[torch.Tensor]:
    """32 samples of noise for the small network."""
    yield from _noise(32, 128, seed=1)


def evaluation() -> Iterator[torch.Tensor]:
    """16 others."""
    yield from _noise(16, 128, seed=2)


def large() -> tuple[nn.Module, tuple[torch.Tensor]]:
    """The large network: 302 million parameters, 1.21 GB of float weights."""
    return _encoder(24, 1024, 16)


def samples() -> Iterator[torch.Tensor]:
    """Eight samples of noise for the large network."""
    yield from _noise(8, 1024, seed=0)


def _noise(count: int, width: int, seed: int) -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        yield torch.rand(1, TOKENS, width, generator=generator)
