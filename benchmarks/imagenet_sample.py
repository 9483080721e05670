"""A folder of labelled pictures of ImageNet classes, 256x256, as the samples of a network.

`labels.csv` has `file,class_index`. Every fifth picture calibrates, the others are evaluated.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from edgecompile.dataset import Sample

PICTURES = 500
CALIBRATION = range(0, PICTURES, 5)
EVALUATION = [index for index in range(PICTURES) if index % 5]

# Mean and standard deviation of a pixel, as each network was trained.
STATISTICS = {
    "mobilenet_v2": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "efficientnet_lite0": ((0.498, 0.498, 0.498), (0.502, 0.502, 0.502)),
    "resnet18": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
_CROP = slice(16, 240)  # the middle 224 of 256


def pictures(folder: Path, indices: Sequence[int], model: str) -> tuple[Sample, ...]:
    """Return pictures as a network's samples of shape (1, 3, 224, 224), with their labels."""
    with (folder / "labels.csv").open() as table:
        rows = list(csv.DictReader(table))
    return tuple(_sample(folder, rows[index], model) for index in indices)


def _sample(folder: Path, row: dict[str, str], model: str) -> Sample:
    mean, deviation = STATISTICS[model]
    pixels = np.asarray(Image.open(folder / row["file"]).convert("RGB"))[_CROP, _CROP]
    values = (pixels.astype(np.float32) / 255 - np.float32(mean)) / np.float32(deviation)
    tensor = torch.from_numpy(values.transpose(2, 0, 1)[None].copy())
    return Sample(inputs=(tensor,), label=int(row["class_index"]))
