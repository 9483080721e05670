"""MobileNetV3-Small with random weights: hardswish and squeeze-and-excitation (Howard et al., 2019)."""

from __future__ import annotations

import torch
from torch import nn

# Per block: kernel, expanded channels, output channels, squeeze and excite, hardswish, stride.
BLOCKS = (
    (3, 16, 16, True, False, 2),
    (3, 72, 24, False, False, 2),
    (3, 88, 24, False, False, 1),
    (5, 96, 40, True, True, 2),
    (5, 240, 40, True, True, 1),
    (5, 240, 40, True, True, 1),
    (5, 120, 48, True, True, 1),
    (5, 144, 48, True, True, 1),
    (5, 288, 96, True, True, 2),
    (5, 576, 96, True, True, 1),
    (5, 576, 96, True, True, 1),
)


def conv(
    inputs: int, outputs: int, last: nn.Module, *, kernel: int = 1, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution with padding that keeps the size, batch norm, activation."""
    padding = (kernel - 1) // 2
    layer = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), last)


class Squeeze(nn.Module):
    """Scales each channel by a small network of all channels' means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = max(8, channels // 4 // 8 * 8)
        self.scale = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            nn.ReLU(),
            nn.Conv2d(squeezed, channels, 1),
            nn.Hardsigmoid(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the same."""
        return x * self.scale(x)


class Block(nn.Module):
    """Expand, filter depthwise, squeeze and excite, project; added to its input where that fits."""

    def __init__(self, inputs: int, row: tuple[int, int, int, bool, bool, int]) -> None:
        super().__init__()
        kernel, hidden, outputs, squeeze, hard, stride = row
        activation = nn.Hardswish if hard else nn.ReLU
        expand = [conv(inputs, hidden, activation())] if hidden != inputs else []
        self.layers = nn.Sequential(
            *expand,
            conv(hidden, hidden, activation(), kernel=kernel, stride=stride, groups=hidden),
            Squeeze(hidden) if squeeze else nn.Identity(),
            conv(hidden, outputs, nn.Identity()),
        )
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, outputs, H / stride, W / stride)."""
        return x + self.layers(x) if self.is_residual else self.layers(x)


def model() -> tuple[nn.Module, tuple[torch.Tensor]]:
    """The network in eval mode, with an example input (1, 3, 224, 224)."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [conv(3, 16, nn.Hardswish(), kernel=3, stride=2)]
    channels = 16
    for row in BLOCKS:
        layers.append(Block(channels, row))
        channels = row[2]
    layers += [conv(channels, 576, nn.Hardswish()), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    layers += [nn.Linear(576, 1024), nn.Hardswish(), nn.Linear(1024, 1000)]
    return nn.Sequential(*layers).eval(), (torch.rand(1, 3, 224, 224),)
