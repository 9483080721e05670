"""What is embedded: an artifact, its inputs and outputs in the language's words, pipeline and goldens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from edgecompile.artifact import MANIFEST, Artifact, Bundle, TensorEntry, sha256
from edgecompile.decibels import LOWEST_SQNR_DB, sqnr_db
from edgecompile.dynamic_size import BATCH, DynamicSize, shape_text
from edgecompile.embedding.identifiers import identifier, identifiers, type_name
from edgecompile.errors import (
    FormatNotInBundleError,
    InvalidManifestError,
    NotEmbeddableError,
    PlatformFormatError,
)
from edgecompile.goldens import read_golden
from edgecompile.picture import Pixels, Preparation
from edgecompile.pipeline import ClassesOutput, PictureInput, Pipeline, fitted, read_labels

if TYPE_CHECKING:
    from edgecompile.embedding.platform import Platform
    from edgecompile.embedding.signed_statement import SignedStatement

ENOUGH_SQNR_DB = 60.0
"""More than this no self-test asks for: two float engines need not agree on more."""

TOLERATED_DB = 1.0
"""How much farther from float an engine may be than the reference is."""

_MOST_BYTES = 1 << 32


@dataclass(frozen=True, kw_only=True)
class EmbeddedTensor:
    """An input or output.

    Attributes:
        identifier: The name in the language.
        shape: The size of each dimension; a batch of any size is 1, None is another dynamic one.
        type: Of an element, in the language.
        dynamic: The bounds of sizes that are None, where they are known.
    """

    name: str
    identifier: str
    shape: tuple[int | None, ...]
    dtype: str
    type: str
    dynamic: tuple[DynamicSize, ...] = ()

    @property
    def sizes(self) -> tuple[int | tuple[int, int | None, int] | None, ...]:
        """What each dimension may be: a size; the least, the largest and the step between sizes; or any."""
        bounds = {size.axis: (size.minimum, size.maximum, size.step) for size in self.dynamic}
        return tuple(bounds.get(axis) if size is None else size for axis, size in enumerate(self.shape))

    @property
    def shown_shape(self) -> str:
        """The shape for a reader."""
        return shape_text(self.shape, [size for size in self.dynamic if self.shape[size.axis] is None])

    @property
    def count(self) -> int:
        """How many elements it has, where no size is dynamic."""
        return prod(size for size in self.shape if size is not None)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What the templates see.

    Attributes:
        name: The model's, as an identifier in lower case.
        data: The artifact's bytes.
        exact_option: Whether ONNX Runtime may be told to compute exactly on x86-64: it then cannot load an
            artifact whose layers share a weight.
        pipeline: With nothing left unsaid, and fitting.
        labels: The names of the classes; None for numbers.
        required_sqnr_db: What each output of the goldens must have against float, for the self-test.
        goldens: The bytes of each, little-endian, by `000-input-0`, `000-float-0`.
        golden_count: How many there are.
        golden_shapes: Of each golden, the shapes of its inputs.
        signed: What the wrapper verifies before it reads an artifact; None where it takes this one only.
    """

    name: str
    type_name: str
    target: str
    artifact: Artifact
    data: bytes
    exact_option: bool
    inputs: tuple[EmbeddedTensor, ...]
    outputs: tuple[EmbeddedTensor, ...]
    pipeline: Pipeline
    labels: tuple[str, ...] | None
    required_sqnr_db: tuple[float, ...]
    goldens: dict[str, bytes]
    golden_count: int
    golden_shapes: tuple[tuple[tuple[int, ...], ...], ...]
    signed: SignedStatement | None

    @property
    def artifact_name(self) -> str:
        """The artifact's file in a project."""
        return f"{self.name}.{self.artifact.format}"

    @property
    def artifact_files(self) -> dict[str, bytes]:
        """The artifact and what is beside it in a project: the signed statement, where there is one."""
        return {self.artifact_name: self.data} | (self.signed.files if self.signed else {})

    @property
    def picture(self) -> PictureInput | None:
        """How a picture becomes an input."""
        return self.pipeline.picture

    @property
    def classes(self) -> ClassesOutput | None:
        """How an output becomes named classes."""
        return self.pipeline.classes

    @property
    def classifies(self) -> bool:
        """Whether a picture goes in, nothing else, and classes come out."""
        return self.picture is not None and self.classes is not None and len(self.inputs) == 1

    @property
    def picture_tensor(self) -> EmbeddedTensor:
        """The input that a picture becomes."""
        return next(item for item in self.inputs if self.picture and item.name == self.picture.input)

    @property
    def classes_tensor(self) -> EmbeddedTensor:
        """The output that holds the classes."""
        return next(item for item in self.outputs if self.classes and item.name == self.classes.output)

    @property
    def preparation(self) -> Preparation:
        """The arithmetic between a picture and the input."""
        assert self.picture is not None
        return self.picture.preparation(self.picture_tensor.shape)

    @property
    def probe_size(self) -> tuple[int, int]:
        """The height and width of the picture that self-tests draw."""
        return 2 * self.preparation.height + 35, 3 * self.preparation.width + 18

    @cached_property
    def probe_sha256(self) -> str:
        """The SHA-256 of the input, in float32 little-endian, that the drawn picture becomes."""
        return sha256(self.preparation.apply(probe_picture(*self.probe_size)).astype("<f4").tobytes())


def probe_picture(height: int, width: int) -> Pixels:
    """Return the picture that self-tests draw: (7 x + 13 y + (x xor y) + 85 channel) mod 256."""
    y, x, channel = np.ogrid[:height, :width, :3]
    return np.asarray((7 * x + 13 * y + (x ^ y) + 85 * channel) % 256, np.uint8)


def read_subject(
    bundle: Bundle,
    platform: Platform,
    platform_name: str,
    wanted: str | None,
    signed: SignedStatement | None = None,
) -> Subject:
    """Return what is embedded of a bundle.

    Args:
        bundle: Whose files are read here, each against its hash.
        platform: What it is for.
        platform_name: For errors.
        wanted: The format; None for the first of the platform's that the bundle has.
        signed: The bundle's manifest, signed; None where the wrapper verifies no signature.

    Raises:
        PlatformFormatError: The platform has no engine for the wanted format.
        FormatNotInBundleError: The bundle has no artifact of it.
        NotEmbeddableError: The platform has no type for an input or output.
        NameCollisionError: Two names become the same identifier.
        AlteredFileError: A file is not the one that was built.
        InvalidManifestError: The pipeline does not fit the model, or a version is none.
    """
    artifact = _artifact(bundle, platform, platform_name, wanted)
    manifest, where = bundle.manifest, str(bundle.path / MANIFEST)
    if not re.fullmatch(r"\d+(\.\d+)+\w*", artifact.engine_version, re.ASCII):
        raise InvalidManifestError(f"no version: {artifact.engine_version!r}", where=where)
    declared = manifest.pipeline or Pipeline()
    labels = None
    if declared.classes and declared.classes.labels:
        labels = read_labels(bundle.read(declared.classes.labels), InvalidManifestError, where)
    pipeline = fitted(
        declared,
        manifest.inputs,
        manifest.outputs,
        label_count=None if labels is None else len(labels),
        error=InvalidManifestError,
        where=where,
    )
    name = identifier(manifest.name.lower())
    if name in platform.reserved | platform.reserved_names:
        name = f"{name}_model"
    data = bundle.read(artifact.path)
    return Subject(
        name=name,
        type_name=type_name(name),
        target=identifier(manifest.target).replace("_", "-"),
        artifact=artifact,
        data=data,
        exact_option=artifact.format == "onnx" and not _shares_weights(data),
        inputs=_tensors(manifest.inputs, platform, platform_name, "input"),
        outputs=_tensors(manifest.outputs, platform, platform_name, "output"),
        pipeline=pipeline,
        labels=labels,
        signed=signed,
        **_goldens(bundle),
    )


def _artifact(bundle: Bundle, platform: Platform, platform_name: str, wanted: str | None) -> Artifact:
    if wanted is not None and wanted not in platform.formats:
        raise PlatformFormatError(wanted, platform.formats, where=f"platform {platform_name}")
    formats = (wanted,) if wanted else platform.formats
    there = {artifact.format: artifact for artifact in bundle.artifacts}
    for name in formats:
        if name in there:
            return there[name]
    raise FormatNotInBundleError(
        f"the bundle has no artifact for the platform {platform_name!r}",
        where=str(bundle.path),
        expected=" or ".join(formats),
        found=", ".join(there) or "no artifact",
        hint=f"build it with `--format {formats[0]}`, or without any --format for all",
    )


def _tensors(
    entries: Sequence[TensorEntry], platform: Platform, platform_name: str, kind: str
) -> tuple[EmbeddedTensor, ...]:
    names = identifiers([entry.name for entry in entries], platform.reserved, kind)
    return tuple(
        EmbeddedTensor(
            name=entry.name,
            identifier=name,
            shape=_shape(entry, platform, platform_name, kind),
            dtype=entry.dtype,
            type=platform.types[entry.dtype],
            dynamic=entry.dynamic,
        )
        for entry, name in zip(entries, names, strict=True)
    )


def _shape(entry: TensorEntry, platform: Platform, platform_name: str, kind: str) -> tuple[int | None, ...]:
    """Return a tensor's shape with a batch of 1, or say why the platform cannot take it."""
    others = {size.axis for size in entry.dynamic if size.name != BATCH}
    shape = tuple(
        1 if size is None and axis == 0 and axis not in others else size
        for axis, size in enumerate(entry.shape)
    )
    expected, found = None, None
    if entry.dtype not in platform.types:
        expected, found = ", ".join(platform.types), entry.dtype
    elif None in shape and not platform.dynamic_sizes:
        expected, found = "a fixed size of all dimensions but the batch", str(list(entry.shape))
    elif any(size is not None and size < 1 for size in shape) or prod(filter(None, shape)) > _MOST_BYTES:
        expected, found = "sizes of a tensor", str(list(entry.shape))
    if expected:
        raise NotEmbeddableError(
            f"the platform {platform_name!r} cannot take the {kind} {entry.name!r}",
            expected=expected,
            found=found,
        )
    return shape


def _shares_weights(data: bytes) -> bool:
    from edgecompile.engines.onnxruntime import Onnxruntime

    return Onnxruntime.precise_form(data) != data


def _goldens(bundle: Bundle) -> dict[str, Any]:
    """Return the goldens' bytes, and how close to float the reference is on them."""
    manifest, contents = bundle.manifest, {}
    energies = np.zeros((len(manifest.outputs), 2))  # signal, noise
    shapes = []
    for index in range(manifest.goldens):
        inputs = [read_golden(bundle, index, "input", entry).numpy() for entry in manifest.inputs]
        shapes.append(tuple(array.shape for array in inputs))
        for place, array in enumerate(inputs):
            contents[f"{index:03d}-input-{place}"] = _little_endian(array)
        for place, entry in enumerate(manifest.outputs):
            array = read_golden(bundle, index, "float", entry).numpy()
            reference = read_golden(bundle, index, "reference", entry).numpy()
            contents[f"{index:03d}-float-{place}"] = _little_endian(array)
            exact = array.astype(np.float64)
            energies[place] += (exact**2).sum(), ((exact - reference) ** 2).sum()
    required = (min(sqnr_db(signal, noise), ENOUGH_SQNR_DB) - TOLERATED_DB for signal, noise in energies)
    return {
        "goldens": contents,
        "golden_count": manifest.goldens,
        "golden_shapes": tuple(shapes),
        "required_sqnr_db": tuple(round(max(item, LOWEST_SQNR_DB), 3) for item in required),
    }


def _little_endian(array: np.ndarray[Any, Any]) -> bytes:
    return array.astype(array.dtype.newbyteorder("<")).tobytes()
