"""The pipelines that the examples declare make what their own calibration data are."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from edgecompile.dataset import TensorSpec
from edgecompile.errors import InvalidConfigError
from edgecompile.picture import Preparation
from edgecompile.pipeline import fitted_picture
from edgecompile.settings import Options, resolve

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))

import digits  # noqa: E402
import mobilenet_v2  # noqa: E402
import photographs  # noqa: E402


def preparation(example: str, *shape: int) -> Preparation:
    settings = resolve(f"{EXAMPLES}/{example}.py:model", Options(), EXAMPLES / f"{example}.toml")
    assert settings.pipeline and settings.pipeline.picture
    inputs = [TensorSpec(name="x", shape=shape, dtype="float32")]
    return fitted_picture(settings.pipeline.picture, inputs, InvalidConfigError, "here").preparation(shape)


def test_digits() -> None:
    """The same pixels become the same numbers, but for the last bits of float32."""
    prepare = preparation("digits", 1, 1, 28, 28)
    for tensor in islice(digits.calibration(), 50):
        grey = np.rint((tensor[0, 0].numpy() + 1) * 127.5).astype(np.uint8)
        found = prepare.apply(np.repeat(grey[:, :, None], 3, axis=2))
        assert np.abs(found - tensor.numpy()).max() <= 1e-7


def test_mobilenet_v2() -> None:
    prepare = preparation("mobilenet_v2", 1, 3, 224, 224)
    pictures = photographs.crops("calibration", 16)
    for (picture, _), tensor in zip(pictures, mobilenet_v2.calibration(16), strict=True):
        pixels = np.rint(picture[0].numpy().transpose(1, 2, 0) * 255).astype(np.uint8)
        assert np.abs(prepare.apply(pixels) - tensor.numpy()).max() <= 1e-6


@pytest.mark.parametrize("name", photographs.PHOTOGRAPHS)
def test_mobilenet_v2_on_whole_photographs(name: str) -> None:
    """Resized here and not by Pillow: no value is more than one of 255 away."""
    prepare = preparation("mobilenet_v2", 1, 3, 224, 224)
    photograph = photographs.photograph(name)
    width, height = (224 * side // min(photograph.size) for side in photograph.size)
    resized = photograph.resize((width, height), photographs.Image.Resampling.BILINEAR)
    left, top = (width - 224) // 2, (height - 224) // 2
    expected = np.asarray(resized.crop((left, top, left + 224, top + 224))).transpose(2, 0, 1)
    mean, std = (np.array(values)[:, None, None] for values in (prepare.mean, prepare.std))
    values = (prepare.apply(np.asarray(photograph))[0] * std + mean) * 255
    assert np.abs(values - expected).max() <= 1.001
