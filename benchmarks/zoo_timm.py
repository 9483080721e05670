"""The zoo's networks of timm (Wightman, 2019), with random weights: none are shipped with it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from zoo_packages import importable
from zoo_samples import textures
from zoo_weights import settled


def model(name: str) -> tuple[nn.Module, tuple[torch.Tensor]]:
    """Return a network in eval mode, with random weights, and an example input (1, 3, H, W)."""
    module = _create(name)
    size = _input_size(module)
    return settled(module, [(item,) for item in textures(4, size)], name), (torch.zeros(1, *size),)


def samples(name: str) -> list[torch.Tensor]:
    """Return smooth random pictures of a network's input size, (1, 3, H, W), of mean 0 and deviation 1."""
    with torch.device("meta"):
        size = _input_size(_create(name))
    return textures(4, size)


def _create(name: str) -> nn.Module:
    torch.manual_seed(0)
    return importable("timm").create_model(name)  # type: ignore[no-any-return]


def _input_size(module: Any) -> tuple[int, int, int]:
    channels, height, width = module.default_cfg["input_size"]
    return channels, height, width
