"""From a picture to a model's input: channels, resize, crop, numbers, the same on every platform.

All of it is integer arithmetic but for one table, so that any language gives the very same bits. The page
"embed" of edgecompile's documentation defines it. Needs numpy only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
Numbers = np.ndarray[Any, np.dtype[np.float32]]

WEIGHT_BITS = 22
"""Weights are multiples of 2 ** -22, as Pillow's are: a sum of 255 times them fits into 31 bits."""


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """How a picture becomes an input.

    Attributes:
        height: Of the input.
        width: Of the input.
        short_side: What the picture's shorter side becomes before the center is cropped; None where the whole
            picture becomes (height, width), whatever its proportions.
        channels: Their order; "grey" for a single one.
        layout: Of the input: (1, C, H, W) or (1, H, W, C).
        divide_by: 255 for numbers from 0 to 1.
        mean: Subtracted after that, one for each channel.
        std: Divided by after that, one for each channel.
    """

    height: int
    width: int
    short_side: int | None
    channels: Literal["rgb", "bgr", "grey"]
    layout: Literal["nchw", "nhwc"]
    divide_by: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def apply(self, pixels: Pixels) -> Numbers:
        """Return a picture as the input.

        Args:
            pixels: (H, W, 3), red green blue, upright.

        Raises:
            ValueError: It is of another shape or type, or empty.
        """
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or pixels.size == 0:
            raise ValueError(f"expected uint8 (H, W, 3), found {pixels.dtype} {pixels.shape}")
        ordered = _ordered(pixels, self.channels)
        height, width = self.resized(pixels.shape[0], pixels.shape[1])
        top, left = (height - self.height) // 2, (width - self.width) // 2
        across = resampled(ordered.swapaxes(0, 1), width, left, self.width).swapaxes(0, 1)
        cropped = resampled(across, height, top, self.height)
        table = self.table()
        planes = [table[channel][cropped[:, :, channel]] for channel in range(len(table))]
        return np.stack(planes, axis=0 if self.layout == "nchw" else 2)[None]

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Return the size that a picture is resized to, before the crop."""
        if self.short_side is None:
            return self.height, self.width
        short = min(height, width)
        return self.short_side * height // short, self.short_side * width // short

    def table(self) -> Numbers:
        """Return the number that each value of each channel becomes, (C, 256): float64 until the end."""
        values = np.arange(256, dtype=np.float64) / self.divide_by
        rows = [(values - mean) / std for mean, std in zip(self.mean, self.std, strict=True)]
        return np.array(rows).astype(np.float32)


def resampled(pixels: Pixels, size: int, first: int, count: int) -> Pixels:
    """Resize the first axis to `size` and return `count` rows of that, from `first` on.

    The filter is a triangle as wide as the step between the new rows, and at least as that between the old
    ones: what Pillow calls bilinear, with the weights rounded once instead of after several steps in float.
    """
    old = pixels.shape[0]
    rows = np.empty((count, *pixels.shape[1:]), np.uint8)
    for row in range(count):
        start, weights = row_weights(old, size, first + row)
        part = pixels[start : start + len(weights)].astype(np.int32)
        total = np.tensordot(np.array(weights, np.int32), part, axes=1)
        rows[row] = np.minimum((total + (1 << WEIGHT_BITS >> 1)) >> WEIGHT_BITS, 255)
    return rows


def row_weights(old: int, new: int, row: int) -> tuple[int, list[int]]:
    """Return the first old row that a new one is made from, and the weights of it and those that follow.

    Distances are measured in halves of 1 / (old * new) of the picture, and so are integers.
    """
    reach = 2 * max(old, new)
    center = (2 * row + 1) * old
    # The first and the last old row with a distance below the reach.
    start = max(0, (center - reach - new) // (2 * new) + 1)
    stop = min(old, (center + reach - new + 2 * new - 1) // (2 * new))
    distances = [abs((2 * place + 1) * new - center) for place in range(start, stop)]
    total = sum(reach - distance for distance in distances)
    return start, [
        (((reach - distance) << (WEIGHT_BITS + 1)) + total) // (2 * total) for distance in distances
    ]


def _ordered(pixels: Pixels, channels: str) -> Pixels:
    if channels == "rgb":
        return pixels
    if channels == "bgr":
        return pixels[:, :, ::-1]
    red, green, blue = (pixels[:, :, channel].astype(np.int32) for channel in range(3))
    # ITU-R BT.601 luma in 16 bits, as Pillow's "L" has it.
    grey = (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16
    return grey.astype(np.uint8)[:, :, None]
