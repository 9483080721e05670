"""What is in an artifact or a bundle: the data of `edgecompile inspect`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgecompile.errors import EngineFailedError, NotABundleError, UnreadableArtifactError, UsageError
from edgecompile.executed_graph import executed_operators
from edgecompile.inspected_sizes import NamedSize, named_sizes, sizes_text
from edgecompile.inspection_text import render
from edgecompile.layer_quality import LayerReport, read_layer_report
from edgecompile.layer_text import layer_text
from edgecompile.readers.contents import ArtifactContents
from edgecompile.sensitivity import SensitivityReport, read_sensitivity_report
from edgecompile.sensitivity_text import sensitivity_text
from edgecompile.text_table import WIDTH
from edgecompile.why_not import WhyNot, costliest_first, read_why_not
from edgecompile.why_not_text import why_not_text

if TYPE_CHECKING:
    from edgecompile.artifact import Bundle

MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class InspectedArtifact:
    """One artifact file.

    Attributes:
        notes: What could not be found out, and why.
    """

    name: str
    contents: ArtifactContents
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """The artifacts of a bundle, or one bare artifact.

    Attributes:
        layers: How good each layer of a bundle's program is, where that was asked for.
        sensitivity: What the rounding of each layer costs, where that was asked for.
        why_not: What was not done, the costliest first, where that was asked for.
        time_shares: The share of an inference, 0 to 1, of its operators; None where no time was given.
        sizes: The dynamic sizes of a bundle's inputs and outputs; an artifact itself does not tell them.
    """

    artifacts: tuple[InspectedArtifact, ...]
    layers: LayerReport | None = None
    sensitivity: SensitivityReport | None = None
    why_not: tuple[WhyNot, ...] | None = None
    time_shares: Mapping[WhyNot, float] | None = None
    sizes: tuple[NamedSize, ...] = ()

    def text(self, *, layers: bool = False, width: int = WIDTH) -> str:
        """Return one block per artifact for a terminal, without colours.

        Args:
            layers: Add a table with one row per layer: of a bundle's program, or of a bare artifact.
            width: Of the terminal, in columns.
        """
        of_artifact = layers and self.layers is None
        blocks = [sizes_text(self.sizes)] if self.sizes else []
        blocks += [
            render(artifact.name, artifact.contents, artifact.notes, layers=of_artifact, width=width)
            for artifact in self.artifacts
        ]
        if layers and self.layers is not None:
            blocks.append(layer_text(self.layers, width))
        if self.sensitivity is not None:
            blocks.append(sensitivity_text(self.sensitivity, width))
        if self.why_not is not None:
            head = "not done, and why" if self.why_not else "everything was fused, quantized and delegated"
            blocks.append(head + "\n")
            blocks += [why_not_text(self.why_not, self.time_shares, width)] if self.why_not else []
        return "\n".join(blocks)

    def to_dict(self) -> dict[str, object]:
        """Return the same, with every layer, as JSON's types (no infinity: an open bound is null)."""
        document: dict[str, object] = {"artifacts": [_artifact_dict(artifact) for artifact in self.artifacts]}
        if self.sizes:
            document["dynamic_sizes"] = [asdict(size) for size in self.sizes]
        if self.layers is not None:
            document["layers"] = self.layers.to_dict()
        if self.sensitivity is not None:
            document["sensitivity"] = self.sensitivity.to_dict()
        if self.why_not is not None:
            times = self.time_shares or {}
            document["why_not"] = [
                {**asdict(row), "declined_by": row.declined_by, "time_share": times.get(row)}
                for row in self.why_not
            ]
        return document


def inspect(
    path: Path,
    *,
    layers: bool = False,
    sensitivity: bool = False,
    why_not: bool = False,
    measured: Sequence[Path] = (),
) -> Inspection:
    """Read an artifact, or every artifact of a bundle, without loading any into its engine.

    The exception is ONNX Runtime, which is asked, in a process of its own, for the graph that it executes.

    Args:
        path: The file of an artifact, or the folder of a bundle.
        layers: Of a bundle, also read how good each layer is.
        sensitivity: Of a bundle, also read what the rounding of each layer costs.
        why_not: Of a bundle, also read what was not done.
        measured: What `bench --per-op --json` printed, in files: the times of what was not done.

    Raises:
        InvalidReportError: If that is not in the report, or damaged.
        AlteredFileError: If the report is not the one that was built.
        NotABundleError: If there is nothing at `path`, or it is a folder without a manifest.
        UnreadableArtifactError: If an artifact is damaged or of no known format.
        InvalidMeasurementError: A file of `measured` cannot be read.
        MeasurementMismatchError: A file of `measured` is of none of the artifacts.
    """
    if measured and not why_not:
        raise UsageError("--measured gives the times of what --why-not lists", hint="add --why-not")
    if not path.is_dir():
        if sensitivity or why_not:
            said = "its sensitivity" if sensitivity else "what was not done"
            raise UsageError(f"an artifact does not tell {said}", hint="give the bundle's folder")
        return Inspection(artifacts=(_inspect_file(path),))
    if not (path / MANIFEST).is_file():
        raise NotABundleError(
            f"the folder {path} is not a bundle",
            expected=f"a folder with a {MANIFEST}, or a .pte, .ptl or .onnx file",
            hint="`edgecompile build` writes one bundle a target, to OUTPUT/<target>/",
        )
    from edgecompile.artifact import REPORT, load_bundle

    bundle = load_bundle(path)
    where = path / REPORT
    report = bundle.report_dict() if layers or sensitivity or why_not else {}
    rows = tuple(costliest_first(read_why_not(report, where))) if why_not else None
    artifacts = tuple(_inspect_file(path / artifact.path) for artifact in bundle.artifacts)
    return Inspection(
        artifacts=artifacts,
        layers=read_layer_report(report, where) if layers else None,
        sensitivity=read_sensitivity_report(report, where) if sensitivity else None,
        why_not=rows,
        sizes=tuple(named_sizes(bundle.manifest)),
        time_shares=_time_shares(rows, bundle, measured) if rows is not None and measured else None,
    )


def _time_shares(rows: Sequence[WhyNot], bundle: Bundle, measured: Sequence[Path]) -> dict[WhyNot, float]:
    from edgecompile.report_page.measured import read_measured
    from edgecompile.report_page.why_not_times import time_shares

    documents = read_measured(measured, {item.sha256 for item in bundle.artifacts})
    return time_shares(rows, bundle.artifacts, documents.times)


def detect_format(data: bytes, suffix: str = "") -> str | None:
    """Return `pte`, `ptl` or `onnx` by the first bytes; ONNX has no magic number, so its suffix helps."""
    if data[4:6] == b"ET" and data[6:8].isdigit():
        return "pte"
    if data[:4] == b"PK\x03\x04":
        return "ptl"
    # ONNX is a protobuf whose first field is ir_version, a small varint.
    if data[:1] == b"\x08" or (suffix == ".onnx" and data):
        return "onnx"
    return None


def _inspect_file(path: Path) -> InspectedArtifact:
    data = _read(path)
    try:
        contents = _reader(data, path.suffix)(data)
    except UnreadableArtifactError as error:
        raise UnreadableArtifactError(error.message, **{"where": str(path), **error.lines}) from error
    if contents.format != "onnx":
        return InspectedArtifact(name=path.name, contents=contents)
    try:
        optimized = executed_operators(data)
    except EngineFailedError as error:
        notes = (f"{error.message}: {error.lines.get('found', '')}",)
        return InspectedArtifact(name=path.name, contents=contents, notes=notes)
    return InspectedArtifact(name=path.name, contents=replace(contents, optimized_operators=optimized))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise NotABundleError(
            f"there is nothing at {path}", expected="a bundle's folder, or a .pte, .ptl or .onnx file"
        ) from error
    except OSError as error:
        raise UnreadableArtifactError(
            "the file cannot be read", where=str(path), found=error.strerror
        ) from error


def _reader(data: bytes, suffix: str) -> Callable[[bytes], ArtifactContents]:
    """Return the reader of the format that the bytes are in; a reader's imports can take a second."""
    artifact_format = detect_format(data, suffix)
    if artifact_format is None:
        raise UnreadableArtifactError(
            "this is not an artifact",
            expected="an ExecuTorch program (.pte), a TorchScript Lite archive (.ptl), an ONNX model (.onnx)",
            found=f"a file that begins with {data[:12]!r}" if data else "an empty file",
        )
    if artifact_format == "pte":
        from edgecompile.readers import pte

        return pte.read
    if artifact_format == "ptl":
        from edgecompile.readers import ptl

        return ptl.read
    from edgecompile.readers import onnx

    return onnx.read


def _artifact_dict(artifact: InspectedArtifact) -> dict[str, object]:
    contents = artifact.contents
    return {
        "name": artifact.name,
        **{key: _finite(value) for key, value in asdict(contents).items()},
        "integer_layers": contents.integer_layers,
        "float_layers": contents.float_layers,
        "executed_integer_layers": contents.executed_integer_layers,
        "executed_float_layers": contents.executed_float_layers,
        "weight_bytes": contents.weight_bytes,
        "notes": list(artifact.notes),
    }


def _finite(value: object) -> object:
    """Replace infinity and NaN, which JSON has not, by None; tuples by lists."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
