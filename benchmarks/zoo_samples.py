"""What the zoo's networks read: random, but with structure at several scales, as photos and sounds have."""

from __future__ import annotations

import torch
from torch import nn

Size = tuple[int, int, int]


def textures(count: int, size: Size, generator: torch.Generator | None = None) -> list[torch.Tensor]:
    """Return noise with structure at several scales, as photos have: (1, *size), mean 0, deviation 1."""
    generator = generator or torch.Generator().manual_seed(1)
    found = []
    for _ in range(count):
        total = torch.zeros(1, *size)
        for grid in (2, 5, 14, 40):
            noise = torch.randn(1, size[0], grid, grid, generator=generator)
            total += nn.functional.interpolate(noise, size[1:], mode="bicubic")
        found.append((total - total.mean()) / total.std())
    return found


def waves(length: int, generator: torch.Generator) -> torch.Tensor:
    """Return a sound of three tones and some noise, (1, length)."""
    time = torch.arange(length) / 8000
    tones = 100 * 20 ** torch.rand(3, 1, generator=generator)  # Hz
    sound = (2 * torch.pi * tones * time).sin().sum(0)
    return (sound + 0.3 * torch.randn(length, generator=generator))[None]
