"""A small real bundle with a pipeline, and real pictures."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from signed_bundles import SignedBundle, signed_copy

from edgecompile.cli.main import main

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))

import photographs  # noqa: E402

NETWORK = """
import numpy as np
import torch
from photographs import photograph
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2), nn.ReLU6(), nn.Conv2d(16, 16, 3, groups=16), nn.ReLU6(),
            nn.Conv2d(16, 24, 1),
        )
        self.head = nn.Linear(24, 6)

    def forward(self, picture):
        return self.head(self.features(picture).mean([2, 3]))

def make():
    torch.manual_seed(0)
    return Net(), (torch.rand(1, 3, 40, 48),)

def pictures():
    torch.manual_seed(1)
    for name in ("skimage/data/coffee.png", "sklearn/datasets/images/china.jpg"):
        picture = photograph(name)
        for _ in range(6):
            x, y = (int(torch.randint(0, side - 200, ())) for side in picture.size)
            crop = np.asarray(picture.crop((x, y, x + 190, y + 160)).resize((48, 40)), np.float32)
            yield torch.from_numpy((crop / 255 - 0.45) / 0.25).permute(2, 0, 1)
"""

CONFIG = """
target = ["android-arm64"]
format = ["pte", "onnx"]
calibration = "small.py:pictures"
output = "out"

[pipeline.picture]
short_side = 50
mean = [0.45]
std = [0.25]

[pipeline.classes]
top_k = 3
labels = "labels.txt"
"""

LABELS = ("cat", "größe", '"; \\ ${x} %s', "d", "e", "*/ 猫")


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network with a pipeline, that the command line built for android-arm64."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "small.py").write_text(f"import sys\nsys.path.insert(0, {str(EXAMPLES)!r})\n{NETWORK}")
    (folder / "edgecompile.toml").write_text(CONFIG)
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in LABELS), encoding="utf-8")
    assert main(["build", f"{folder}/small.py:make", "--config", f"{folder}/edgecompile.toml"]) == 0
    return folder / "out/android-arm64"


@pytest.fixture(scope="session")
def signed_bundle(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> SignedBundle:
    """The small bundle, signed."""
    return signed_copy(small_bundle, tmp_path_factory.mktemp("signed"))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Ten real photographs of many sizes, as PNG, which decodes to the same pixels everywhere."""
    folder = tmp_path_factory.mktemp("pictures")
    paths = []
    for number in range(10):
        photograph = photographs.photograph(photographs.PHOTOGRAPHS[number])
        path = folder / f"{number}.png"
        photograph.crop((0, 0, photograph.width - 31 * number, photograph.height)).save(path)
        paths.append(path)
    return paths


@pytest.fixture(scope="session")
def onnx_bundle(cli, small_bundle, tmp_path_factory) -> Callable[[str], Path]:
    """The small bundle, or one of an example with its config file, by name; each built once."""
    built = {"small": small_bundle}

    def bundle(name: str) -> Path:
        if name not in built:
            output = tmp_path_factory.mktemp(name)
            finished = cli(
                "build", f"{EXAMPLES}/{name}.py:model", "--config", EXAMPLES / f"{name}.toml",
                "--output", output, "--format", "onnx",
            )  # fmt: skip
            assert finished.status == 0, finished.err
            built[name] = output / "android-arm64"
        return built[name]

    return bundle


@pytest.fixture(scope="session")
def pictures_of(pictures, tmp_path_factory) -> Callable[[str], list[Path]]:
    """Ten real pictures for a model, by its name: photographs, or handwritten digits for `digits`."""
    folder = tmp_path_factory.mktemp("digits")

    def chosen(name: str) -> list[Path]:
        if name != "digits":
            return pictures
        import digits

        paths = []
        for number, (tensor, label) in zip(range(10), digits.evaluation(), strict=False):
            paths.append(folder / f"{number}-{label}.png")
            Image.fromarray(np.rint((tensor[0, 0].numpy() + 1) * 127.5).astype(np.uint8)).save(paths[-1])
        return paths

    return chosen
