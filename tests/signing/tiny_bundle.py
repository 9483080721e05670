"""A bundle of a few bytes, as on disk after a build."""

from __future__ import annotations

from pathlib import Path

from edgecompile.artifact import SCHEMA_VERSION, Artifact, Manifest, TensorEntry, sha256, write_manifest

FILES = {
    "net.onnx": bytes(range(256)) * 4,
    "goldens/000-input-x.npy": b"an input",
    "report.json": b"{}",
}


def write_bundle(folder: Path, files: dict[str, bytes] = FILES) -> Path:
    """Write a bundle of these files, one of which is net.onnx."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    hashes = {name: sha256(data) for name, data in files.items()}
    tensor = TensorEntry(name="x", shape=(None, 3), dtype="float32", scale=None, zero_point=None)
    artifact = Artifact(
        format="onnx",
        engine="onnxruntime",
        engine_version="1.0",
        path="net.onnx",
        size_bytes=len(files["net.onnx"]),
        sha256=hashes["net.onnx"],
        operators={},
        delegates={},
    )
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        edgecompile_version="0.1.0",
        name="net",
        target="android-arm64",
        precision="fp32",
        inputs=(tensor,),
        outputs=(tensor,),
        artifacts=(artifact,),
        goldens=1,
        files=hashes,
        toolchain={},
        settings=(),
    )
    write_manifest(folder, manifest)
    return folder
