"""The packages that define the zoo's networks: `make zoo` puts them away from those of the product."""

from __future__ import annotations

import functools
import importlib
import os
import sys
from typing import Any

import torch

_FOLDER = os.environ.get("EDGECOMPILE_ZOO")
_kept: list[torch.library.Library] = []


@functools.cache
def importable(package: str) -> Any:
    """Import timm or transformers."""
    if _FOLDER and _FOLDER not in sys.path:
        sys.path.append(_FOLDER)
    if not hasattr(torch.ops.torchvision, "nms"):
        # Both import torchvision, whose wheels are for CUDA alone: its own operators need not work here.
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept.append(library)
    return importlib.import_module(package)
