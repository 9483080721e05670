"""Layers with their norms, for the networks written for the zoo."""

from __future__ import annotations

from typing import Any

from torch import nn


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, **options: Any) -> nn.Sequential:
    """Convolution, batch norm, and the activation `act` (ReLU)."""
    return _layer(nn.Conv2d, nn.BatchNorm2d, inputs, outputs, kernel, stride, **options)


def conv1d(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, **options: Any) -> nn.Sequential:
    """Do as `conv` does, over time."""
    return _layer(nn.Conv1d, nn.BatchNorm1d, inputs, outputs, kernel, stride, **options)


def _layer(layer, norm, inputs, outputs, kernel, stride, *, act=None, padding=None, **options):
    padding = kernel // 2 if padding is None else padding
    convolution = layer(inputs, outputs, kernel, stride, padding, bias=False, **options)
    return nn.Sequential(convolution, norm(outputs), act or nn.ReLU())
