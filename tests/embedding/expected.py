"""What a project must compute, by edgecompile's own arithmetic and the engine in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from edgecompile.artifact import Bundle, load_bundle
from edgecompile.classes import Class, top_classes
from edgecompile.engine import load_engine
from edgecompile.errors import InvalidManifestError
from edgecompile.goldens import read_goldens
from edgecompile.picture import Preparation
from edgecompile.pipeline import read_labels


def _session(bundle: Bundle, format_name: str):
    artifact = next(item for item in bundle.artifacts if item.format == format_name)
    return load_engine(artifact.engine).load(bundle.read(artifact.path), precise=True)


def golden_outputs(path: Path, format_name: str) -> np.ndarray:
    """Return the engine's output for each golden, stacked."""
    bundle = load_bundle(path)
    session = _session(bundle, format_name)
    return np.stack([session.run(sample.inputs)[0].numpy() for sample in read_goldens(bundle)[0]])


def golden_inputs(path: Path) -> np.ndarray:
    return np.stack([sample.inputs[0].numpy() for sample in read_goldens(load_bundle(path))[0]])


def preparation_of(path: Path) -> Preparation:
    manifest = load_bundle(path).manifest
    return manifest.pipeline.picture.preparation(manifest.inputs[0].shape)


def classes_of(path: Path, format_name: str, pictures: Sequence[Path]) -> list[tuple[Class, ...]]:
    """Return the classes of each picture."""
    bundle = load_bundle(path)
    session, preparation = _session(bundle, format_name), preparation_of(path)
    declared = bundle.manifest.pipeline.classes
    labels = declared.labels and read_labels(bundle.read(declared.labels), InvalidManifestError, "here")
    found = []
    for picture in pictures:
        prepared = preparation.apply(np.asarray(Image.open(picture).convert("RGB")))
        (output,) = session.run((torch.from_numpy(prepared),))
        found.append(
            top_classes(output.numpy(), softmax=declared.softmax, top_k=declared.top_k, labels=labels)
        )
    return found


def check_rows(rows: list[dict], expected: list[tuple[Class, ...]]) -> None:
    """Check what a project's program printed, one JSON document a picture."""
    assert len(rows) == len(expected)
    for row, classes in zip(rows, expected, strict=True):
        found = [(item["index"], item["label"]) for item in row["classes"]]
        assert found == [(item.index, item.label) for item in classes]
        for item, scored in zip(row["classes"], classes, strict=True):
            assert abs(item["score"] - scored.score) <= 1e-12
