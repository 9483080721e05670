"""Reads the goldens of a bundle: inputs, and what the float model made of them."""

from __future__ import annotations

import io

import numpy as np
import torch

from edgecompile.artifact import Bundle, TensorEntry
from edgecompile.bundle_writer import GOLDENS, golden_name
from edgecompile.dataset import Sample
from edgecompile.errors import InvalidManifestError


def read_goldens(bundle: Bundle) -> tuple[list[Sample], list[tuple[torch.Tensor, ...]]]:
    """Return a bundle's golden inputs, and the float model's outputs for each.

    Raises:
        AlteredFileError: A file is not the one that was built.
        InvalidManifestError: An array is not what the manifest says.
    """
    manifest = bundle.manifest
    samples, outputs = [], []
    for index in range(manifest.goldens):
        inputs = tuple(_read_golden(bundle, index, "input", entry) for entry in manifest.inputs)
        samples.append(Sample(inputs=inputs, label=None))
        outputs.append(tuple(_read_golden(bundle, index, "float", entry) for entry in manifest.outputs))
    return samples, outputs


def _read_golden(bundle: Bundle, index: int, kind: str, entry: TensorEntry) -> torch.Tensor:
    file = f"{GOLDENS}/{golden_name(index, kind, entry.name)}"
    try:
        array = np.load(io.BytesIO(bundle.read(file)), allow_pickle=False)
        tensor = torch.from_numpy(array)
    except (ValueError, TypeError, EOFError, SyntaxError, MemoryError) as error:
        raise InvalidManifestError(
            f"the golden {file!r} is no array: {error}", where=str(bundle.path)
        ) from error
    sizes = zip(entry.shape, tensor.shape, strict=False)
    fits = tensor.dim() == len(entry.shape) and all(size in (None, actual) for size, actual in sizes)
    dtype = str(tensor.dtype).removeprefix("torch.")
    if not fits or dtype != entry.dtype:
        raise InvalidManifestError(
            f"the golden {file!r} does not fit {entry.name!r}",
            where=str(bundle.path),
            expected=f"{entry.dtype} {list(entry.shape)}",
            found=f"{dtype} {list(tensor.shape)}",
        )
    return tensor
