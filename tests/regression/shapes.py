"""A network that really tells five shapes apart, its data, and worse copies of it, as an app may have."""

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional

CLASSES, SIZE = 5, 24


class Shapes(nn.Module):
    """(N, 3, 24, 24) to logits (N, 5): random convolutions, and a head that was fitted to them."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.between: nn.Module = nn.Identity()
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.pointwise = nn.Conv2d(16, 32, 1)
        self.last = nn.Conv2d(32, 32, 3, stride=2, padding=1)
        self.head = nn.Linear(32, CLASSES)
        for parameter in self.parameters():
            fan_in = max(parameter[0].numel(), 1)
            parameter.data = torch.randn(parameter.shape, generator=generator) * (2 / fan_in) ** 0.5
        pictures, labels = _pictures(400, seed=1)
        with torch.no_grad():
            found = torch.cat([self.features(pictures), torch.ones(400, 1)], dim=1)
            wanted = 4 * functional.one_hot(labels, CLASSES).float() - 0.8
            ridge = 0.02 * len(found) * torch.eye(found.shape[1])  # or two percent would change all
            solved = torch.linalg.solve(found.T @ found + ridge, found.T @ wanted)
            self.head.weight.copy_(solved[:-1].T)
            self.head.bias.copy_(solved[-1])

    def features(self, x: torch.Tensor) -> torch.Tensor:
        x = self.between(functional.relu6(self.stem(x)))
        x = functional.relu6(self.depthwise(x))
        x = functional.relu6(self.pointwise(x))
        return functional.relu6(self.last(x)).mean([2, 3])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x))


class Summing(Shapes):
    """With an operator that no delegate has, and that changes nothing."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.features(x)
        return self.head(features + 0 * torch.cumsum(features, dim=1))


class Two(Shapes):
    """With an output more."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.features(x)
        return self.head(features), features


_EXAMPLE = (torch.zeros(1, 3, SIZE, SIZE),)


def model() -> tuple[nn.Module, tuple[torch.Tensor]]:
    return Shapes().eval(), _EXAMPLE


def perturbed() -> tuple[nn.Module, tuple[torch.Tensor]]:
    """Every weight is off by two percent."""
    network = Shapes().eval()
    generator = torch.Generator().manual_seed(2)
    for parameter in network.parameters():
        parameter.data *= 1 + 0.02 * torch.randn(parameter.shape, generator=generator)
    return network, _EXAMPLE


def untrained() -> tuple[nn.Module, tuple[torch.Tensor]]:
    """A head that half forgot what it was fitted to."""
    network = Shapes().eval()
    network.head.weight.data[: CLASSES // 2] = 0
    return network, _EXAMPLE


def two() -> tuple[nn.Module, tuple[torch.Tensor]]:
    return Two().eval(), _EXAMPLE


def undelegated() -> tuple[nn.Module, tuple[torch.Tensor]]:
    return Summing().eval(), _EXAMPLE


def slow() -> tuple[nn.Module, tuple[torch.Tensor]]:
    """With one more convolution, which changes nothing."""
    network = Shapes().eval()
    network.between = nn.Conv2d(16, 16, 1)
    network.between.weight.data = torch.eye(16)[:, :, None, None]
    network.between.bias.data.zero_()
    return network, _EXAMPLE


def calibration() -> Iterator[torch.Tensor]:
    return iter(_pictures(64, seed=1)[0].split(1))


def dark_calibration() -> Iterator[torch.Tensor]:
    """Pictures as a camera gives them at night."""
    return (0.3 * picture for picture in calibration())


def evaluation(seed: int = 3) -> Iterator[tuple[torch.Tensor, int]]:
    pictures, labels = _pictures(160, seed=seed)
    return zip(pictures.split(1), labels.tolist(), strict=True)


def other_evaluation() -> Iterator[tuple[torch.Tensor, int]]:
    return evaluation(seed=4)


def _pictures(count: int, *, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Stripes, columns, rings, blobs and noise, each moved about at random, with noise on top."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    axis = torch.arange(SIZE) / SIZE * 2 * torch.pi
    y, x = axis[:, None].expand(SIZE, SIZE), axis[None, :].expand(SIZE, SIZE)
    pictures = []
    for label in labels.tolist():
        phase, other = (torch.rand(2, generator=generator) * 2 * torch.pi).tolist()
        noise = torch.randn(SIZE, SIZE, generator=generator)
        shape = (
            torch.sin(4 * y + phase),
            torch.sin(4 * x + phase),
            torch.sin(3 * ((y - torch.pi) ** 2 + (x - torch.pi) ** 2).sqrt() + phase),
            torch.sin(2 * x + phase) * torch.sin(2 * y + other),
            noise,
        )[label]
        pictures.append(shape + 0.4 * torch.randn(3, SIZE, SIZE, generator=generator))
    return torch.stack(pictures), labels
