"""ResNet-18 (224x224, 11 M parameters) that tells the example photographs apart.

No package ships ImageNet weights for it, so nothing here is trained by gradient descent: the
convolutions are random (seeded), the batch norms hold the true statistics of the calibration crops,
and the classifier is fitted to their features in closed form, one class per photograph. Activations,
ranges and predictions are therefore sane and the same in every run, and top-1 means something.

Source: He et al., "Deep Residual Learning for Image Recognition", 2015. Modules carry torchvision's
names, so its weights would load as they are but for the last layer.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from photographs import PHOTOGRAPHS, Split, crops
from torch import nn
from torch.nn import functional

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, added to their input (projected where its shape differs)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, outputs, H / stride, W / stride)."""
        identity = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + identity)


class ResNet18(nn.Module):
    """The whole network: (N, 3, H, W) to logits (N, classes)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = nn.Sequential(BasicBlock(64, 64, 1), BasicBlock(64, 64, 1))
        self.layer2 = nn.Sequential(BasicBlock(64, 128, 2), BasicBlock(128, 128, 1))
        self.layer3 = nn.Sequential(BasicBlock(128, 256, 2), BasicBlock(256, 256, 1))
        self.layer4 = nn.Sequential(BasicBlock(256, 512, 2), BasicBlock(512, 512, 1))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(512, classes)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) to pooled features (N, 512)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return torch.flatten(self.avgpool(x), 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) to logits (N, classes)."""
        return self.fc(self.features(x))


def model() -> tuple[nn.Module, tuple[torch.Tensor]]:
    """The network in eval mode, with an example input (1, 3, 224, 224)."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        network = ResNet18(classes=len(PHOTOGRAPHS))
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        pictures, labels = zip(*samples("calibration", 6 * len(PHOTOGRAPHS)), strict=True)
        measure_batch_norms(network, pictures)
        fit_classifier(network, pictures, torch.tensor(labels))
    return network.eval(), (torch.zeros(1, 3, 224, 224),)


def measure_batch_norms(network: ResNet18, pictures: tuple[torch.Tensor, ...]) -> None:
    """Set the running statistics to the plain average over `pictures`, in batches of one round each."""
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # a cumulative average
    network.train()
    for batch in torch.cat(pictures).split(len(PHOTOGRAPHS)):
        network.features(batch)
    for norm in norms:
        norm.momentum = 0.1
    network.eval()


def fit_classifier(network: ResNet18, pictures: tuple[torch.Tensor, ...], labels: torch.Tensor) -> None:
    """Ridge regression from the centred features to one-hot labels, logits scaled to about 0 to 10."""
    features = torch.cat([network.features(picture) for picture in pictures]).double()  # (N, 512)
    mean = features.mean(0)
    centred = features - mean
    gram = centred @ centred.T  # (N, N): fewer crops than features, so solve the dual problem
    ridge = 0.01 * gram.diagonal().mean() * torch.eye(len(gram))
    targets = 10 * functional.one_hot(labels, len(PHOTOGRAPHS)).double()
    weight = (centred.T @ torch.linalg.solve(gram + ridge, targets)).T  # (classes, 512)
    network.fc.weight.copy_(weight)
    network.fc.bias.copy_(-weight @ mean)


def samples(split: Split, count: int) -> Iterator[tuple[torch.Tensor, int]]:
    """Normalized crops (1, 3, 224, 224), each with the index of its photograph."""
    return (((picture - MEAN) / STD, label) for picture, label in crops(split, count))


def calibration(count: int = 48) -> Iterator[torch.Tensor]:
    """What the ranges of the activations are measured on."""
    return (picture for picture, _ in samples("calibration", count))


def evaluation(count: int = 100) -> Iterator[tuple[torch.Tensor, int]]:
    """Input and label: the other half of every photograph, so recognizing it is not trivial."""
    return samples("evaluation", count)
