"""A compact CRNN that reads a line of text: depthwise convolutions, a bidirectional GRU, 0.36 M parameters.

Weights: legere 0.11.0. The lines are those of real mails, drawn with the font that is part of Pillow. The
measure is the character error rate: edits from what is read to what is written, a character. It was trained
on Portuguese, so k, w and y cost it most of its errors in float already.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import nn

from pretrained_models.sources import mail_text, mails, package_file

MEASURE = "character error rate"
_HEIGHT, _WIDTH = 32, 640
_BLOCKS = ((48, (2, 2)), (64, (1, 1)), (96, (2, 1)), (128, (1, 1)), (160, (2, 1)), (192, (2, 1)))
_CALIBRATION, _EVALUATION, _MEASURED = range(100), range(100, 164), range(100, 300)


class Block(nn.Module):
    """Depthwise and pointwise convolution, each with batch norm and ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: tuple[int, int]) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, outputs, H / stride, W / stride)."""
        return torch.relu(self.bn2(self.pointwise(torch.relu(self.bn1(self.depthwise(x))))))


class Crnn(nn.Module):
    """The network, with legere's names."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 24, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU()
        )
        inputs = (24, *(outputs for outputs, _ in _BLOCKS))
        self.blocks = nn.Sequential(
            *(Block(before, *block) for before, block in zip(inputs, _BLOCKS, strict=False))
        )
        self.rnn = nn.GRU(192, 128, batch_first=True, bidirectional=True)
        self.head = nn.Linear(256, classes)

    def forward(self, lines: torch.Tensor) -> torch.Tensor:
        """(N, 1, 32, W) in -1 to 1 to (N, W / 4, classes)."""
        x = self.blocks(self.stem(lines)).squeeze(2).permute(0, 2, 1)
        return self.head(self.rnn(x)[0])


@cache
def _checkpoint() -> dict[str, Any]:
    checkpoint: dict[str, Any] = torch.load(package_file("legere/data/model.pt"), weights_only=True)
    return checkpoint


def model() -> tuple[nn.Module, tuple[torch.Tensor]]:
    """The network in eval mode, with an example input."""
    network = Crnn(len(_checkpoint()["charset"]) + 1)
    network.load_state_dict(_checkpoint()["model"])
    return network.eval(), (torch.zeros(1, 1, _HEIGHT, _WIDTH),)


def calibration() -> Iterator[torch.Tensor]:
    """Lines of some mails."""
    return (_draw(text, seed) for seed, text in _lines(_CALIBRATION))


def evaluation() -> Iterator[torch.Tensor]:
    """Lines of others, the first of those that are measured."""
    return (_draw(text, seed) for seed, text in _lines(_EVALUATION))


def measure(run: Callable[..., tuple[torch.Tensor, ...]]) -> float:
    """Edits a character, over all lines."""
    edits = characters = 0
    for seed, text in _lines(_MEASURED):
        edits += _edits(_read(run(_draw(text, seed))[0]), text)
        characters += len(text)
    return edits / characters


def _lines(indices: range) -> Iterator[tuple[int, str]]:
    """The first line of each body that looks like prose, with its number; mails without one are left out."""
    known = set(_checkpoint()["charset"])
    found = 0
    for mail in mails("easy-ham-2"):
        lines = (" ".join(line.split()) for line in mail_text(mail).splitlines()[1:])
        text = next((line for line in lines if _is_prose(line, known)), None)
        if text is None:
            continue
        if found in indices:
            yield found, text
        found += 1


def _is_prose(line: str, known: set[str]) -> bool:
    return 20 <= len(line) <= 40 and line[0].isalpha() and known.issuperset(line)


def _draw(text: str, seed: int) -> torch.Tensor:
    """Black on white or nearly so, at one of some sizes; (1, 1, 32, 640) with white to the right."""
    chance = random.Random(seed)
    font = ImageFont.load_default(chance.uniform(18, 30))
    left, top, right, bottom = font.getbbox(text)
    margins = [chance.randint(2, 6) for _ in range(4)]
    size = (round(right - left) + margins[0] + margins[1], round(bottom - top) + margins[2] + margins[3])
    picture = Image.new("L", size, chance.randint(235, 255))
    ImageDraw.Draw(picture).text((margins[0] - left, margins[2] - top), text, chance.randint(0, 60), font)
    width = min(round(size[0] * _HEIGHT / size[1]), _WIDTH)
    line = np.full((_HEIGHT, _WIDTH), 255, np.float32)
    line[:, :width] = np.asarray(picture.resize((width, _HEIGHT), Image.Resampling.BILINEAR))
    return torch.from_numpy(line / 127.5 - 1)[None, None]


def _read(logits: torch.Tensor) -> str:
    """The best path: the likeliest class of each step, repetitions and blanks (class 0) left out."""
    best = logits[0].argmax(dim=1).tolist()
    charset = _checkpoint()["charset"]
    pairs = zip([0, *best], best, strict=False)
    return "".join(charset[now - 1] for before, now in pairs if now not in (0, before))


def _edits(found: str, wanted: str) -> int:
    """The fewest insertions, deletions and substitutions (Levenshtein)."""
    row = list(range(len(wanted) + 1))
    for count, letter in enumerate(found, 1):
        diagonal, row[0] = row[0], count
        for index, other in enumerate(wanted, 1):
            diagonal, row[index] = (
                row[index],
                min(row[index] + 1, row[index - 1] + 1, diagonal + (letter != other)),
            )
    return row[-1]
