"""The networks of `benchmarks/zoo.py`: `NAME` is the function of one, `NAME__pictures` of its pictures.

timm has the definitions (Wightman, 2019); the weights are random, for none are shipped with it. Where a
published initialization would leave a network half dead, with scales of 1e-6 or classifiers of zeros, it is
made lively: every scale and every layer counts, and batch norms have the statistics of the pictures.
"""

from __future__ import annotations

import functools
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

# Where `make zoo` puts timm, away from the packages of the product.
_FOLDER = os.environ.get("EDGECOMPILE_ZOO")
# Below it a scale leaves nothing of what it scales.
_DEAD = 1e-2


def __getattr__(name: str) -> Callable[[], Any]:
    """Return the function of a network or of its pictures."""
    if name.startswith("_"):
        raise AttributeError(name)
    network, _, what = name.partition("__")
    return functools.partial(pictures if what == "pictures" else model, network)


def model(name: str) -> tuple[nn.Module, tuple[torch.Tensor]]:
    """Return a network in eval mode, with random weights, and an example input (1, 3, H, W)."""
    module = _create(name)
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    _revive(module, generator)
    size = _input_size(module)
    _measure_batch_norms(module, size)
    return module.eval(), (torch.zeros(1, *size),)


def pictures(name: str) -> Iterator[torch.Tensor]:
    """Yield smooth random pictures of a network's input size, (1, 3, H, W), of mean 0 and deviation 1."""
    with torch.device("meta"):
        size = _input_size(_create(name))
    yield from textures(4, size)


def textures(count: int, size: tuple[int, int, int]) -> list[torch.Tensor]:
    """Return noise that has structure at several scales, as photos have."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(count):
        total = torch.zeros(1, *size)
        for grid in (2, 5, 14, 40):
            noise = torch.randn(1, size[0], grid, grid, generator=generator)
            total += nn.functional.interpolate(noise, size[1:], mode="bicubic")
        found.append((total - total.mean()) / total.std())
    return found


def _create(name: str) -> nn.Module:
    torch.manual_seed(0)
    return _timm().create_model(name)  # type: ignore[no-any-return]


@functools.cache
def _timm() -> Any:
    if _FOLDER and _FOLDER not in sys.path:
        sys.path.append(_FOLDER)
    if not hasattr(torch.ops.torchvision, "nms"):
        # timm imports torchvision, whose wheels are for CUDA alone: its own operators need not work here.
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept.append(library)
    import timm

    return timm


_kept: list[torch.library.Library] = []


def _input_size(module: Any) -> tuple[int, int, int]:
    channels, height, width = module.default_cfg["input_size"]
    return channels, height, width


def _revive(module: nn.Module, generator: torch.Generator) -> None:
    """Give weights and scales that are (almost) zero values of an ordinary size, in place."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("bias") or parameter.abs().max() > _DEAD:
                continue
            deviation = 0.05 if parameter.dim() > 1 else 0.1
            parameter.normal_(0.3 if parameter.dim() == 1 else 0.0, deviation, generator=generator)


def _measure_batch_norms(module: nn.Module, size: tuple[int, int, int]) -> None:
    """Set the running statistics of batch norms to those of four pictures, in place."""
    norms = [item for item in module.modules() if isinstance(item, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    module.eval()
    for norm in norms:
        norm.train()
        norm.reset_running_stats()
        norm.momentum = None
    with torch.no_grad():
        module(torch.cat(textures(4, size)))
