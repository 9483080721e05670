"""The goldens of a bundle: inputs, and what the float model and the reference made of them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from edgecompile.artifact import Bundle, TensorEntry
from edgecompile.dataset import Sample, spread
from edgecompile.dynamic_size import shape_text, signature_of_shapes
from edgecompile.errors import InvalidManifestError

_FOLDER = "goldens"
Kind = Literal["input", "float", "reference"]
Golden = tuple[Sample, tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]
"""A sample, and the outputs of the float model and of the reference for it."""


def golden_choice(triples: Sequence[Golden], limit: int) -> list[Golden]:
    """Return at most `limit` goldens, evenly spaced, of two sizes at least where samples have several."""
    chosen = spread(triples, limit)
    if len(chosen) < 2 or len({signature_of_shapes(sample.inputs) for sample, _, _ in chosen}) > 1:
        return chosen
    known = signature_of_shapes(chosen[0][0].inputs)
    others = (triple for triple in triples if signature_of_shapes(triple[0].inputs) != known)
    return [*chosen[:-1], next(others, chosen[-1])]


def golden_files(
    goldens: Sequence[Golden], inputs: Sequence[TensorEntry], outputs: Sequence[TensorEntry]
) -> dict[str, bytes]:
    """Return the `.npy` files of goldens, by their paths in the bundle."""
    contents = {}
    for index, (sample, floats, references) in enumerate(goldens):
        groups = (
            ("input", inputs, sample.inputs),
            ("float", outputs, floats),
            ("reference", outputs, references),
        )
        for kind, entries, tensors in groups:
            for entry, tensor in zip(entries, tensors, strict=True):
                buffer = io.BytesIO()
                np.save(buffer, tensor.numpy(), allow_pickle=False)
                contents[_file(index, kind, entry.name)] = buffer.getvalue()
    return contents


def _file(index: int, kind: str, tensor_name: str) -> str:
    """Return a golden's path: `goldens/000-input-x.npy`, `goldens/000-reference-output.npy`."""
    return f"{_FOLDER}/{index:03d}-{kind}-{tensor_name}.npy"


def read_goldens(bundle: Bundle) -> tuple[list[Sample], list[tuple[torch.Tensor, ...]]]:
    """Return a bundle's golden inputs, and the float model's outputs for each.

    Raises:
        AlteredFileError: A file is not the one that was built.
        InvalidManifestError: An array is not what the manifest says.
    """
    manifest = bundle.manifest
    samples, outputs = [], []
    for index in range(manifest.goldens):
        inputs = tuple(read_golden(bundle, index, "input", entry) for entry in manifest.inputs)
        samples.append(Sample(inputs=inputs, label=None))
        outputs.append(tuple(read_golden(bundle, index, "float", entry) for entry in manifest.outputs))
    return samples, outputs


def read_golden(bundle: Bundle, index: int, kind: Kind, entry: TensorEntry) -> torch.Tensor:
    """Return one tensor of a golden.

    Raises:
        AlteredFileError: The file is not the one that was built.
        InvalidManifestError: The array is not what the manifest says.
    """
    file = _file(index, kind, entry.name)
    try:
        array = np.load(io.BytesIO(bundle.read(file)), allow_pickle=False)
        tensor = torch.from_numpy(array)
    except (ValueError, TypeError, EOFError, SyntaxError, MemoryError) as error:
        raise InvalidManifestError(
            f"the golden {file!r} is no array: {error}", where=str(bundle.path)
        ) from error
    sizes = zip(entry.shape, tensor.shape, strict=False)
    fits = tensor.dim() == len(entry.shape) and all(size in (None, actual) for size, actual in sizes)
    fits = fits and all(size.admits(tensor.shape[size.axis]) for size in entry.dynamic)
    dtype = str(tensor.dtype).removeprefix("torch.")
    if not fits or dtype != entry.dtype:
        raise InvalidManifestError(
            f"the golden {file!r} does not fit {entry.name!r}",
            where=str(bundle.path),
            expected=f"{entry.dtype} {shape_text(entry.shape, entry.dynamic)}",
            found=f"{dtype} {list(tensor.shape)}",
        )
    return tensor
