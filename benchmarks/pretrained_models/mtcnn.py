"""MTCNN's three networks: is there a face in a patch, and where? 7 k to 389 k parameters, with PReLU.

Source: Zhang et al. 2016, "Joint Face Detection and Alignment using Multitask Cascaded Convolutional
Networks"; weights of facenet-pytorch 2.6.0. The measure is the share of scikit-image's 200 grey patches (100
faces) that are told right at MTCNN's own thresholds; every fifth calibrates, the others are evaluated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from pretrained_models.sources import package_file

MEASURE = "patches right"
_PATCHES, _FACES = 200, 100  # the faces come first
_CALIBRATION = range(0, _PATCHES, 5)
_EVALUATION = [index for index in range(_PATCHES) if index % 5]


class Network(nn.Module):
    """Convolutions, each with PReLU and perhaps a pooling, a linear layer, and one layer for each output.

    A whole patch gives one answer; the first network's last layers are 1x1 convolutions in MTCNN.
    """

    def __init__(self, *, convolutions: str, linear: str, outputs: str) -> None:
        super().__init__()
        self.steps = [word.split(":") for word in convolutions.split()]
        previous = 3
        for index, (channels, kernel, *_) in enumerate(self.steps, 1):
            setattr(self, f"conv{index}", nn.Conv2d(previous, int(channels), int(kernel)))
            setattr(self, f"prelu{index}", nn.PReLU(int(channels)))
            previous = int(channels)
        self.hidden = len(self.steps) + 1 if linear else None
        if linear:
            inputs, previous = (int(word) for word in linear.split(":"))
            setattr(self, f"dense{self.hidden}", nn.Linear(inputs, previous))
            setattr(self, f"prelu{self.hidden}", nn.PReLU(previous))
        self.outputs = [word.split(":")[0] for word in outputs.split()]
        for word in outputs.split():
            name, size = word.split(":")
            layer = nn.Linear(previous, int(size)) if linear else nn.Conv2d(previous, int(size), 1)
            setattr(self, name, layer)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(N, 3, H, W) in -1 to 1 to (N, 2), how likely no face and a face are, (N, 4) for the box, ..."""
        for index, (_, _, *pool) in enumerate(self.steps, 1):
            x = getattr(self, f"prelu{index}")(getattr(self, f"conv{index}")(x))
            x = functional.max_pool2d(x, int(pool[0]), 2, ceil_mode=True) if pool else x
        if self.hidden:
            x = x.permute(0, 3, 2, 1).flatten(1)
            x = getattr(self, f"prelu{self.hidden}")(getattr(self, f"dense{self.hidden}")(x))
        face, *others = (getattr(self, name)(x) for name in self.outputs)
        return functional.softmax(face, dim=1), *others


_SIZES = {"pnet": 12, "rnet": 24, "onet": 48}
_THRESHOLDS = {"pnet": 0.6, "rnet": 0.7, "onet": 0.7}
_LAYERS = {
    "pnet": {"convolutions": "10:3:2 16:3 32:3", "linear": "", "outputs": "conv4_1:2 conv4_2:4"},
    "rnet": {
        "convolutions": "28:3:3 48:3:3 64:2",
        "linear": "576:128",
        "outputs": "dense5_1:2 dense5_2:4",
    },
    "onet": {
        "convolutions": "32:3:3 64:3:3 64:3:2 128:2",
        "linear": "1152:256",
        "outputs": "dense6_1:2 dense6_2:4 dense6_3:10",
    },
}


def network(name: str) -> tuple[nn.Module, tuple[torch.Tensor]]:
    """One of the networks in eval mode, with an example input."""
    module = Network(**_LAYERS[name])
    module.load_state_dict(torch.load(package_file(f"facenet_pytorch/data/{name}.pt"), weights_only=True))
    return module.eval(), (torch.zeros(1, 3, _SIZES[name], _SIZES[name]),)


def patches(indices: range | list[int], name: str) -> Iterator[torch.Tensor]:
    """Patches of (1, 3, size, size), -1 to 1."""
    grey = np.load(package_file("skimage/data/lfw_subset.npy"))[list(indices)]  # (N, 25, 25), 0 to 1
    for patch in torch.from_numpy(grey.astype(np.float32)):
        sized = functional.interpolate(patch[None, None], size=(_SIZES[name],) * 2, mode="area")
        yield (sized.expand(1, 3, -1, -1) * 255 - 127.5) / 128


def right(name: str, run: Callable[..., tuple[torch.Tensor, ...]]) -> float:
    """The share of the evaluation's patches that are told right."""
    found = [float(run(x)[0].flatten()[1]) > _THRESHOLDS[name] for x in patches(_EVALUATION, name)]
    return sum(face == (index < _FACES) for face, index in zip(found, _EVALUATION, strict=True)) / len(found)


pnet_model, rnet_model, onet_model = (partial(network, name) for name in _LAYERS)
pnet_calibration, rnet_calibration, onet_calibration = (
    partial(patches, _CALIBRATION, name) for name in _LAYERS
)
pnet_evaluation, rnet_evaluation, onet_evaluation = (partial(patches, _EVALUATION, name) for name in _LAYERS)
pnet_measure, rnet_measure, onet_measure = (partial(right, name) for name in _LAYERS)
