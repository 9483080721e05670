"""A small transformer encoder with random weights: four layers of four heads on (1, 64, 128)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

LAYERS, WIDTH, HEADS, TOKENS = 4, 128, 4, 64


class Layer(nn.Module):
    """Attention and a feed-forward block, each with a layer norm before it and a residual around it."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.heads, self.join = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, T, WIDTH) to the same."""
        batch, tokens, _ = x.shape
        parts = self.heads(self.norms[0](x)).view(batch, tokens, 3, HEADS, WIDTH // HEADS)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)  # (N, HEADS, T, WIDTH / HEADS)
        attended = functional.scaled_dot_product_attention(query, key, value)
        x = x + self.join(attended.transpose(1, 2).reshape(batch, tokens, WIDTH))
        return x + self.down(functional.gelu(self.up(self.norms[1](x))))


def model() -> tuple[nn.Module, tuple[torch.Tensor]]:
    """The network in eval mode, with an example input."""
    torch.manual_seed(0)
    return nn.Sequential(*(Layer() for _ in range(LAYERS))).eval(), (torch.rand(1, TOKENS, WIDTH),)
