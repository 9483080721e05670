"""Bundles as on disk after a build, of any names, shapes and dtypes; their artifacts are no models."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np

from edgecompile.artifact import (
    SCHEMA_VERSION,
    Artifact,
    Manifest,
    TensorEntry,
    interface_of,
    sha256,
    write_manifest,
)
from edgecompile.errors import InvalidManifestError
from edgecompile.pipeline import ClassesOutput, PictureInput, Pipeline, fitted, labels_data

ENGINES = {
    "pte": ("executorch", "1.5.1"),
    "onnx": ("onnxruntime", "1.32.0"),
    "ptl": ("torchscript-lite", "2.13.0"),
}
PICTURES = Pipeline(picture=PictureInput(mean=(0.5,)), classes=ClassesOutput(top_k=2, labels="labels.txt"))


def tensor(name: str, *shape: int | None, dtype: str = "float32") -> TensorEntry:
    return TensorEntry(name=name, shape=shape, dtype=dtype, scale=None, zero_point=None)


def write_bundle(
    folder: Path,
    *,
    name: str = "net",
    formats: tuple[str, ...] = tuple(ENGINES),
    inputs: tuple[TensorEntry, ...] = (tensor("x", None, 3, 8, 6),),
    outputs: tuple[TensorEntry, ...] = (tensor("output", None, 4),),
    pipeline: Pipeline | None = None,
    labels: tuple[str, ...] = ("cat", "dog", "größe", '"; rm \\ ${x}'),
    engine_version: str | None = None,
) -> Path:
    contents: dict[str, bytes] = {}
    for index in range(2):
        for kind, entries in (("input", inputs), ("float", outputs), ("reference", outputs)):
            for entry in entries:
                shape = [size or 1 for size in entry.shape]
                values = np.random.default_rng(index).integers(0, 9, shape) + (kind == "reference")
                stored = np.dtype("float32" if entry.dtype == "bfloat16" else entry.dtype)
                contents[f"goldens/{index:03d}-{kind}-{entry.name}.npy"] = npy(values.astype(stored))
    if pipeline and pipeline.classes and pipeline.classes.labels:
        contents["labels.txt"] = labels_data(labels)
        count: int | None = len(labels)
    else:
        count = None
    artifacts = []
    for each in formats:
        engine, version = ENGINES[each]
        data = f"no model, but an artifact in the format {each}".encode() * 3
        contents[f"model.{each}"] = data
        artifacts.append(
            Artifact(
                format=each,
                engine=engine,
                engine_version=engine_version or version,
                path=f"model.{each}",
                size_bytes=len(data),
                sha256=sha256(data),
                operators={},
                delegates={},
            )
        )
    folder.mkdir(parents=True)
    for path, data in contents.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(data)
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        edgecompile_version="0.1.0",
        name=name,
        target="android-arm64",
        precision="int8",
        inputs=inputs,
        outputs=outputs,
        artifacts=tuple(artifacts),
        goldens=2,
        files={path: sha256(data) for path, data in contents.items()},
        toolchain={},
        settings=(),
        pipeline=pipeline
        and fitted(pipeline, inputs, outputs, label_count=count, error=InvalidManifestError, where="here"),
    )
    write_manifest(folder, dataclasses.replace(manifest, interface=interface_of(manifest)))
    return folder


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
