"""Networks that join and split channels: DenseNet, U-Net and ShuffleNetV2."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class DenseLayer(nn.Module):
    """Norm, ReLU, 1x1, norm, ReLU, 3x3; its few channels are joined to its input (Huang et al., 2017)."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.conv1(functional.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(functional.relu(self.norm2(hidden)))], 1)


class DenseNet(nn.Module):
    """DenseNet-121's stem, growth and widths, with fewer layers in each of three blocks."""

    def __init__(self, growth: int = 32, blocks: tuple[int, ...] = (4, 6, 6)) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU())
        layers: list[nn.Module] = []
        channels = 64
        for index, depth in enumerate(blocks):
            for _ in range(depth):
                layers.append(DenseLayer(channels, growth))
                channels += growth
            if index < len(blocks) - 1:  # a transition
                layers += [nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels // 2, 1)]
                layers.append(nn.AvgPool2d(2))
                channels //= 2
        self.layers = nn.Sequential(*layers)
        self.norm, self.classifier = nn.BatchNorm2d(channels), nn.Linear(channels, 100)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.norm(self.layers(functional.max_pool2d(self.stem(x), 3, 2, 1))))
        return self.classifier(torch.flatten(functional.adaptive_avg_pool2d(x, (1, 1)), 1))


def twice(inputs: int, outputs: int) -> nn.Sequential:
    """Two 3x3 convolutions with batch norms and ReLUs."""
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [nn.Conv2d(channels, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Down, up with transposed convolutions, and skips that are joined (Ronneberger et al., 2015)."""

    def __init__(self, widths: tuple[int, ...] = (32, 64, 128, 256)) -> None:
        super().__init__()
        self.down = nn.ModuleList(twice(one, two) for one, two in zip((3, *widths), widths, strict=False))
        pairs = list(zip(widths[1:], widths, strict=False))[::-1]
        self.up = nn.ModuleList(nn.ConvTranspose2d(wide, narrow, 2, stride=2) for wide, narrow in pairs)
        self.joined = nn.ModuleList(twice(2 * narrow, narrow) for _, narrow in pairs)
        self.head = nn.Conv2d(widths[0], 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for index, block in enumerate(self.down):
            x = block(functional.max_pool2d(x, 2) if index else x)
            skips.append(x)
        for up, block, skip in zip(self.up, self.joined, skips[-2::-1], strict=True):
            x = block(torch.cat([skip, up(x)], 1))
        return self.head(x)


def shuffled(x: torch.Tensor) -> torch.Tensor:
    """The channels of two halves, one of each in turn."""
    batch, channels, height, width = x.shape
    x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2)
    return x.reshape(batch, channels, height, width)


def depthwise(channels: int, stride: int) -> nn.Sequential:
    """A 3x3 filter for each channel, and its batch norm."""
    layer = nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(channels))


def pointwise(inputs: int, outputs: int) -> nn.Sequential:
    """A 1x1 convolution, batch norm and ReLU."""
    layer = nn.Conv2d(inputs, outputs, 1, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())


class ShuffleUnit(nn.Module):
    """Half of the channels pass, half are convolved; with stride 2 all are, twice (Ma et al., 2018)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        self.shortcut = None
        if stride > 1:
            self.shortcut = nn.Sequential(depthwise(inputs, stride), pointwise(inputs, half))
        reads = inputs if stride > 1 else half
        self.branch = nn.Sequential(pointwise(reads, half), depthwise(half, stride), pointwise(half, half))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.shortcut is not None:
            return shuffled(torch.cat([self.shortcut(x), self.branch(x)], 1))
        passed, convolved = x.chunk(2, dim=1)
        return shuffled(torch.cat([passed, self.branch(convolved)], 1))


class ShuffleNet(nn.Module):
    """ShuffleNetV2 with the widths of 1.5x, and fewer units in each stage."""

    def __init__(self, widths: tuple[int, ...] = (176, 352), units: tuple[int, ...] = (3, 3)) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU()]
        channels = 24
        for width, count in zip(widths, units, strict=True):
            layers += [ShuffleUnit(channels, width, 2), *(ShuffleUnit(width, width, 1) for _ in range(count))]
            channels = width
        layers.append(pointwise(channels, 1024))
        self.layers = nn.Sequential(*layers)
        self.classifier = nn.Linear(1024, 100)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.layers(x).mean([2, 3]))
