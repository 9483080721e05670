"""Artifacts and bundles: what ships, and the manifest that says what it is."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Field, with_config

from edgecompile.dynamic_size import DynamicSize
from edgecompile.errors import AlteredFileError, InvalidManifestError, InvalidReportError, NotABundleError
from edgecompile.pipeline import LABELS, Pipeline
from edgecompile.program import Declined, Precision
from edgecompile.setting import Value
from edgecompile.strict_toml import STRICT, parse

MANIFEST = "manifest.json"
PROGRAM, CONSTANTS = "program.json", "program.npz"
REPORT = "report.json"
SCHEMA_VERSION: Literal[1] = 1
_OWN_DIGEST = "sha256"  # of the manifest itself, without this key


@dataclass(frozen=True, kw_only=True)
class Emitted:
    """What an emitter returns: one artifact, still in memory.

    Attributes:
        operators: Operators that the artifact executes, by name.
        delegates: Calls into each delegate, by the delegate's name; empty where the engine has none.
        declined: What runs slower than it could (outside the delegate, in float), and why.
    """

    format: str
    engine: str
    engine_version: str
    data: bytes
    operators: dict[str, int]
    delegates: dict[str, int]
    declined: tuple[Declined, ...]


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class TensorEntry:
    """An input or output of the model.

    Attributes:
        shape: The size of each dimension, batch first; None for a dynamic one.
        dtype: "float32", as torch and numpy name it.
        scale: Of the quantize or dequantize node at the model's edge; None where that is in float.
        dynamic: What is known of each dynamic size, by axis.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    scale: float | None
    zero_point: int | None
    dynamic: tuple[DynamicSize, ...] = ()  # bundles from before it have none


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Artifact:
    """One model file of a bundle.

    Attributes:
        engine_version: The engine that it was built for.
        path: Relative to the bundle.
        sha256: Of the file's bytes, in hexadecimal.
    """

    format: str
    engine: str
    engine_version: str
    path: str
    size_bytes: int
    sha256: str
    operators: dict[str, int]
    delegates: dict[str, int]


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class SettingEntry:
    """A setting of the build, and what said so."""

    name: str
    value: Value
    origin: str


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a bundle is.

    Attributes:
        goldens: How many golden inputs lie in `goldens/`.
        files: SHA-256 of every file but the manifest itself, by its path relative to the bundle.
        toolchain: Versions of the packages that made the bundle.
        pipeline: What stands before and after the model, with nothing left unsaid; None for nothing.
        interface: What `interface_of` gives; None in bundles from before it.
    """

    schema_version: Literal[1]
    edgecompile_version: str
    name: str
    target: str
    precision: Precision
    inputs: tuple[TensorEntry, ...]
    outputs: tuple[TensorEntry, ...]
    artifacts: tuple[Artifact, ...]
    goldens: Annotated[int, Field(ge=1)]
    files: dict[str, str]
    toolchain: dict[str, str]
    settings: tuple[SettingEntry, ...]
    pipeline: Pipeline | None = None  # bundles from before it have none
    interface: str | None = None


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle on disk whose manifest has been read; `verify` says whether its files are the manifest's."""

    path: Path
    manifest: Manifest

    @property
    def artifacts(self) -> tuple[Artifact, ...]:
        """The artifacts, in the order of the target's formats."""
        return self.manifest.artifacts

    def report_text(self) -> str:
        """Return report.txt."""
        return self.read("report.txt").decode()

    def report_dict(self) -> dict[str, Any]:
        """Return report.json.

        Raises:
            AlteredFileError: The file is missing, or its SHA-256 is not the manifest's.
            InvalidReportError: It is not a JSON object.
        """
        where = str(self.path / REPORT)
        try:
            report = json.loads(self.read(REPORT))
        except (ValueError, RecursionError) as error:
            raise InvalidReportError(f"the report cannot be read as JSON: {error}", where=where) from error
        if not isinstance(report, dict):
            raise InvalidReportError("the report is not a JSON object", where=where)
        return report

    def read(self, name: str) -> bytes:
        """Return a file of the bundle, refusing it if it is missing or altered.

        Raises:
            AlteredFileError: The file is missing, or its SHA-256 is not the manifest's.
        """
        expected = self.manifest.files.get(name)
        # A manifest comes from anywhere: it must not name files outside its folder.
        path = (self.path / name).resolve()
        if expected is None or not path.is_relative_to(self.path.resolve()):
            raise AlteredFileError(f"the manifest lists no file {name!r}", where=str(self.path / MANIFEST))
        try:
            data = path.read_bytes()
        except OSError as error:
            raise AlteredFileError(
                f"the bundle's file {name!r} cannot be read: {error.strerror}",
                where=str(path),
                hint="copy the bundle again, or build it again",
            ) from error
        found = sha256(data)
        if found != expected:
            raise AlteredFileError(
                f"the bundle's file {name!r} was altered after the build",
                where=str(path),
                expected=f"SHA-256 {expected}",
                found=f"SHA-256 {found} ({len(data)} bytes)",
                hint="copy the bundle again, or build it again",
            )
        return data

    def verify(self) -> None:
        """Check every file against the manifest.

        Raises:
            AlteredFileError: A file is missing or altered.
        """
        for name in self.manifest.files:
            self.read(name)


def sha256(data: bytes) -> str:
    """Return the SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def interface_of(manifest: Manifest) -> str:
    """Return the SHA-256, in hexadecimal, of what an app's code knows of a model.

    Its name, its inputs' and outputs' names, shapes and dtypes, pipeline and labels: where two bundles have
    the same, the wrapper of one runs the other's artifact. Weights and quantization are no part of it.
    """
    document = {
        "name": manifest.name,
        "inputs": [_known_of(item) for item in manifest.inputs],
        "outputs": [_known_of(item) for item in manifest.outputs],
        "pipeline": manifest.pipeline and dataclasses.asdict(manifest.pipeline),
        "labels": manifest.files.get(LABELS),
    }
    return sha256(json.dumps(document, sort_keys=True).encode())


def _known_of(entry: TensorEntry) -> tuple[Any, ...]:
    # Without dynamic sizes as it was before there were any, so that earlier wrappers still fit.
    sizes = [size.as_json() for size in entry.dynamic]
    return (entry.name, entry.shape, entry.dtype, *([sizes] if sizes else []))


def load_bundle(path: Path) -> Bundle:
    """Read a bundle's manifest.

    Raises:
        NotABundleError: There is no manifest.
        InvalidManifestError: The manifest is truncated, altered, or of another schema version, or names
            files outside the bundle.
    """
    file = path / MANIFEST
    if not file.is_file():
        raise NotABundleError(
            f"'{path}' is not a bundle",
            expected=f"a folder with a {MANIFEST}",
            hint="`edgecompile build` writes one bundle a target, to OUTPUT/<target>/",
        )
    try:
        text = file.read_bytes()
    except OSError as error:
        raise InvalidManifestError(
            f"the manifest cannot be read: {error.strerror}", where=str(file), hint="build the bundle again"
        ) from error
    return parse_bundle(path, text)


def parse_bundle(path: Path, text: bytes) -> Bundle:
    """Return the bundle at `path`, whose manifest has been read already.

    Raises:
        InvalidManifestError: The manifest is truncated, altered, or of another schema version, or names
            files outside the bundle.
    """
    file = path / MANIFEST
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidManifestError(
            f"the manifest cannot be read as JSON: {error}", where=str(file), hint="build the bundle again"
        ) from error
    if not isinstance(data, dict):
        raise InvalidManifestError("the manifest is not a JSON object", where=str(file))
    version = data.get("schema_version")
    if version != SCHEMA_VERSION:
        raise InvalidManifestError(
            f"the manifest's schema version is {version!r}",
            where=str(file),
            expected=str(SCHEMA_VERSION),
            hint="build the bundle again with this version of edgecompile",
        )
    expected = data.pop(_OWN_DIGEST, None)
    if expected != _digest(data):
        raise InvalidManifestError(
            "the manifest was altered after the build",
            where=str(file),
            expected=f"SHA-256 {expected}",
            found=f"SHA-256 {_digest(data)} of all but this number",
            hint="copy the bundle again, or build it again",
        )
    manifest = parse(Manifest, data, InvalidManifestError, lambda _: file)
    _check_paths(manifest, file)
    _check_sizes(manifest, file)
    return Bundle(path=path, manifest=manifest)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest of a bundle, the last of its files."""
    document = dataclasses.asdict(manifest)
    document[_OWN_DIGEST] = _digest(document)
    (folder / MANIFEST).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _digest(document: dict[str, Any]) -> str:
    return sha256(json.dumps(document, sort_keys=True).encode())


def _check_paths(manifest: Manifest, file: Path) -> None:
    for name in manifest.files:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\0" in name:
            raise InvalidManifestError(
                f"the manifest names a file outside the bundle: {name!r}", where=str(file)
            )
    for artifact in manifest.artifacts:
        if manifest.files.get(artifact.path) != artifact.sha256:
            raise InvalidManifestError(
                f"the manifest has two hashes, or none, for {artifact.path!r}", where=str(file)
            )


def _check_sizes(manifest: Manifest, file: Path) -> None:
    for entry in (*manifest.inputs, *manifest.outputs):
        open_axes = [axis for axis, size in enumerate(entry.shape) if size is None]
        # Bundles from before sizes had names tell none.
        if entry.dynamic and [size.axis for size in entry.dynamic] != open_axes:
            raise InvalidManifestError(
                f"the manifest's dynamic sizes of {entry.name!r} are not those of its shape",
                where=str(file),
                expected=f"axes {open_axes}",
                found=f"axes {[size.axis for size in entry.dynamic]}",
            )
