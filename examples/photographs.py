"""Real photographs, cut into the pictures that the image examples calibrate and evaluate on.

The files lie in two packages (scikit-image, scikit-learn), which are found but never imported. Every
photograph is divided into a left and a right part: calibration crops come from one, evaluation crops
from the other, so no pixel is ever seen by both.
"""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image

PHOTOGRAPHS = (
    "skimage/data/astronaut.png",
    "skimage/data/chelsea.png",
    "skimage/data/coffee.png",
    "skimage/data/motorcycle_left.png",
    "sklearn/datasets/images/china.jpg",
    "sklearn/datasets/images/flower.jpg",
    "skimage/data/rocket.jpg",
    "skimage/data/camera.png",
    "skimage/data/brick.png",
    "skimage/data/coins.png",
    "skimage/data/grass.png",
    "skimage/data/gravel.png",
    "skimage/data/hubble_deep_field.jpg",
    "skimage/data/ihc.png",
    "skimage/data/moon.png",
    "skimage/data/retina.jpg",
)

Split = Literal["calibration", "evaluation"]


def package_folder(package: str) -> Path:
    """The folder of an installed package, without importing it.

    Raises:
        FileNotFoundError: It is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        message = (
            f"the examples need the package '{package}': pip install --no-deps -r examples/requirements.txt"
        )
        raise FileNotFoundError(message)
    return Path(spec.origin).parent


@cache
def photograph(name: str) -> Image.Image:
    """One photograph in RGB; a grey one has three equal channels."""
    package, _, path = name.partition("/")
    return Image.open(package_folder(package) / path).convert("RGB")


def crops(
    split: Split, count: int, size: int = 224, resample: Image.Resampling = Image.Resampling.BILINEAR
) -> Iterator[tuple[torch.Tensor, int]]:
    """Square crops at random positions and scales, every second one mirrored; always the same ones.

    Yields:
        The picture as (1, 3, size, size) in 0 to 1, and the index of its photograph. The photographs
        take turns, so the first few crops are as varied as all of them.
    """
    for number in range(count):
        index = number % len(PHOTOGRAPHS)
        random_numbers = random.Random(f"{split} {number}")
        part = photograph(PHOTOGRAPHS[index])
        # Every second photograph is divided the other way round: neither split is "the left sides".
        left = (split == "calibration") == (index % 2 == 0)
        middle = part.width // 2
        part = part.crop((0, 0, middle, part.height) if left else (middle, 0, part.width, part.height))
        side = int(min(part.size) * random_numbers.uniform(0.7, 1.0))
        x = random_numbers.randint(0, part.width - side)
        y = random_numbers.randint(0, part.height - side)
        crop = part.resize((size, size), resample, box=(x, y, x + side, y + side))
        if number // len(PHOTOGRAPHS) % 2:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = np.array(crop, dtype=np.float32) / 255  # (H, W, C)
        yield torch.from_numpy(pixels.transpose(2, 0, 1))[None], index
