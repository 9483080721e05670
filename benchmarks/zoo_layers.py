"""Layers with their norms, for the networks written for the zoo."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, **options: Any) -> nn.Sequential:
    """Convolution, batch norm, and the activation `act` (ReLU)."""
    return _layer(nn.Conv2d, nn.BatchNorm2d, inputs, outputs, kernel, stride, **options)


def conv1d(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, **options: Any) -> nn.Sequential:
    """Do as `conv` does, over time."""
    return _layer(nn.Conv1d, nn.BatchNorm1d, inputs, outputs, kernel, stride, **options)


def _layer(  # noqa: PLR0917
    layer: Callable[..., nn.Module],
    norm: Callable[[int], nn.Module],
    inputs: int,
    outputs: int,
    kernel: int,
    stride: int,
    *,
    act: nn.Module | None = None,
    padding: int | tuple[int, ...] | None = None,
    **options: Any,
) -> nn.Sequential:
    padding = kernel // 2 if padding is None else padding
    convolution = layer(inputs, outputs, kernel, stride, padding, bias=False, **options)
    return nn.Sequential(convolution, norm(outputs), act or nn.ReLU())
