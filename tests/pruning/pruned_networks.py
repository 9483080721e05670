"""Ten networks of realistic widths with random weights, on small pictures: what pruning must cope with."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from dense_networks import DenseNet, ShuffleNet, UNet
from torch import nn
from transformer_networks import ConvNeXt, Encoder

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "examples"), str(ROOT / "benchmarks")]

import mobilenet_v2 as example_mobilenet_v2  # noqa: E402
import mobilenet_v3 as benchmark_mobilenet_v3  # noqa: E402
import resnet18 as example_resnet18  # noqa: E402

Made = tuple[nn.Module, tuple[torch.Tensor, ...]]
PICTURE = (1, 3, 64, 64)


def settled(network: nn.Module, *inputs: torch.Tensor) -> Made:
    """Return a network in inference mode whose norms have parameters, and the statistics of noise."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.LayerNorm):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias, -0.2, 0.2)
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # the average of all batches
    if any(tensor.is_floating_point() for tensor in inputs):
        with torch.no_grad():
            network.train()(*(torch.randn(4, *tensor.shape[1:]) for tensor in inputs))
    return network.eval(), inputs


def mobilenet_v2() -> Made:
    torch.manual_seed(0)
    return settled(example_mobilenet_v2.MobileNetV2(), torch.randn(PICTURE))


def resnet18() -> Made:
    torch.manual_seed(1)
    return settled(example_resnet18.ResNet18(classes=100), torch.randn(PICTURE))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, added to their input (He et al., 2015)."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + identity)


def resnet50() -> Made:
    torch.manual_seed(2)
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2, padding=1),
    ]
    channels = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 << stage
        for block in range(blocks):
            layers.append(Bottleneck(channels, width, 2 if block == 0 and stage else 1))
            channels = 4 * width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 100)]
    return settled(nn.Sequential(*layers), torch.randn(PICTURE))


class LiteBlock(nn.Module):
    """EfficientNet-Lite's inverted residual: ReLU6 and no attention (Liu, 2020)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = None
        if expansion > 1:
            self.expand = nn.Sequential(nn.Conv2d(inputs, hidden, 1, bias=False), nn.BatchNorm2d(hidden))
        self.depthwise = nn.Conv2d(hidden, hidden, kernel, stride, kernel // 2, groups=hidden, bias=False)
        self.norm = nn.BatchNorm2d(hidden)
        self.project = nn.Sequential(nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.activation = nn.ReLU6(inplace=True)
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = x if self.expand is None else self.activation(self.expand(x))
        hidden = self.project(self.activation(self.norm(self.depthwise(hidden))))
        return hidden + x if self.is_residual else hidden


# Per stage: blocks, kernel, stride, expansion, output channels.
LITE0 = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def efficientnet_lite0() -> Made:
    torch.manual_seed(3)
    layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6()]
    channels = 32
    for blocks, kernel, stride, expansion, outputs in LITE0:
        for block in range(blocks):
            layers.append(LiteBlock(channels, outputs, kernel, stride if block == 0 else 1, expansion))
            channels = outputs
    layers += [nn.Conv2d(channels, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.ReLU6()]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000)]
    return settled(nn.Sequential(*layers), torch.randn(PICTURE))


def mobilenet_v3_small() -> Made:
    network, _ = benchmark_mobilenet_v3.model()
    return settled(network, torch.randn(PICTURE))


def convnext() -> Made:
    torch.manual_seed(4)
    return settled(ConvNeXt(), torch.randn(PICTURE))


def densenet() -> Made:
    torch.manual_seed(5)
    return settled(DenseNet(), torch.randn(PICTURE))


def unet() -> Made:
    torch.manual_seed(6)
    return settled(UNet(), torch.randn(1, 3, 32, 32))


def shufflenet() -> Made:
    torch.manual_seed(7)
    return settled(ShuffleNet(), torch.randn(PICTURE))


def encoder() -> Made:
    torch.manual_seed(8)
    return settled(Encoder(), torch.randint(0, 200, (1, 24)))


NETWORKS: dict[str, Callable[[], Made]] = {
    made.__name__: made
    for made in (
        mobilenet_v2,
        resnet18,
        resnet50,
        efficientnet_lite0,
        mobilenet_v3_small,
        convnext,
        densenet,
        unet,
        shufflenet,
        encoder,
    )
}
