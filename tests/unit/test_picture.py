"""The arithmetic before a model: against Pillow, against exact fractions, and against the examples' own."""

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edgecompile.picture import WEIGHT_BITS, Preparation, resampled, row_weights

RGB = Preparation(
    height=24,
    width=32,
    short_side=40,
    channels="rgb",
    layout="nchw",
    divide_by=255.0,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def resized_by_pillow(pixels, height, width):
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))


@given(old=st.integers(1, 500), new=st.integers(1, 500), seed=st.integers(0, 9))
def test_one_axis_is_pillows_bit_for_bit(old, new, seed):
    pixels = noise(old, 5, seed)
    assert np.array_equal(resampled(pixels, new, 0, new), resized_by_pillow(pixels, new, 5))


@pytest.mark.parametrize("seed", range(20))
def test_both_axes_are_pillows_but_for_its_order(seed):
    """Pillow takes either axis first; what lies between is rounded, so the order may change the last step."""
    height, width, new_height, new_width = np.random.default_rng(seed).integers(1, 300, 4).tolist()
    pixels = noise(height, width, seed)
    across = resampled(pixels.swapaxes(0, 1), new_width, 0, new_width).swapaxes(0, 1)
    found = resampled(across, new_height, 0, new_height).astype(int)
    assert abs(found - resized_by_pillow(pixels, new_height, new_width)).max() <= 1


@given(old=st.integers(1, 60), new=st.integers(1, 60), data=st.data())
def test_weights_are_the_triangles(old, new, data):
    row = data.draw(st.integers(0, new - 1))
    start, weights = row_weights(old, new, row)
    step = max(Fraction(old, new), Fraction(1))
    center = (row + Fraction(1, 2)) * Fraction(old, new)
    triangle = [max(Fraction(0), 1 - abs(place + Fraction(1, 2) - center) / step) for place in range(old)]
    for place, exact in enumerate(triangle):
        found = weights[place - start] if start <= place < start + len(weights) else 0
        assert abs(Fraction(found, 1 << WEIGHT_BITS) - exact / sum(triangle)) <= Fraction(1, 2 << WEIGHT_BITS)
    assert min(weights) >= 0


def test_a_crop_is_a_part_of_the_whole():
    pixels = noise(61, 83)
    assert np.array_equal(resampled(pixels, 40, 7, 21), resampled(pixels, 40, 0, 40)[7:28])


def test_white_stays_white():
    white = np.full((97, 3, 3), 255, np.uint8)
    assert all((resampled(white, new, 0, new) == 255).all() for new in range(1, 200, 7))


@pytest.mark.parametrize("size", [(50, 70), (70, 50), (40, 40), (1, 9), (300, 41)])
def test_resize_crop_and_numbers(size):
    pixels = noise(*size)
    height, width = RGB.resized(*size)
    assert min(height, width) == 40
    top, left = (height - 24) // 2, (width - 32) // 2
    whole = resized_by_pillow(pixels, height, width)[top : top + 24, left : left + 32]
    expected = (whole / 255 - RGB.mean) / RGB.std
    found = RGB.apply(pixels)
    assert (found.shape, found.dtype) == ((1, 3, 24, 32), np.float32)
    step = 1 / 255 / min(RGB.std) + 1e-5
    assert abs(found[0].transpose(1, 2, 0) - expected).max() <= step


def test_orders_of_channels_and_layouts():
    pixels = noise(50, 60)
    plain = dataclasses.replace(RGB, mean=(0.0,) * 3, std=(1.0,) * 3)
    found = plain.apply(pixels)
    assert np.array_equal(dataclasses.replace(plain, channels="bgr").apply(pixels), found[:, ::-1])
    last = dataclasses.replace(plain, layout="nhwc").apply(pixels)
    assert np.array_equal(last, found.transpose(0, 2, 3, 1))


def test_grey_is_pillows():
    whole = Preparation(
        height=50, width=60, short_side=None, channels="grey", layout="nchw",
        divide_by=1.0, mean=(0.0,), std=(1.0,),
    )  # fmt: skip
    pixels = noise(50, 60)
    assert np.array_equal(whole.apply(pixels)[0, 0], np.asarray(Image.fromarray(pixels).convert("L")))


@pytest.mark.parametrize(
    "pixels", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), "u1")]
)
def test_what_is_no_picture(pixels):
    with pytest.raises(ValueError, match="expected uint8"):
        RGB.apply(pixels)
