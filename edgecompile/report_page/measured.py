"""What `bench --json` and `validate --json` wrote, read back and matched with bundles by their hashes.

The files come from anywhere. Of each only what a page shows is read, and that is checked.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, with_config

from edgecompile.errors import InvalidMeasurementError, MeasurementMismatchError
from edgecompile.operator_times import OperatorTime
from edgecompile.report_document import QualityRow
from edgecompile.strict_toml import parse

# Another version may say more of what it measured.
READ = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)
Amount = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]


@with_config(READ)
@dataclass(frozen=True, kw_only=True)
class MeasuredArtifact:
    """Which file was measured.

    Attributes:
        artifact: Its label in the document.
        precision: Of its bundle.
    """

    artifact: str
    format: str
    engine: str
    precision: str
    sha256: str


@with_config(READ)
@dataclass(frozen=True, kw_only=True)
class LatencyMs:
    """Of the timed iterations."""

    p50: Amount
    p90: Amount


@with_config(READ)
@dataclass(frozen=True, kw_only=True)
class RatioRow:
    """A time by that of the document's first artifact: the median of the rounds, and their quartiles."""

    median: Amount
    low: Amount
    high: Amount


@with_config(READ)
@dataclass(frozen=True, kw_only=True)
class TimedArtifact(MeasuredArtifact):
    """The times of one artifact."""

    latency_ms: LatencyMs
    ratio: RatioRow
    load_ms: Amount
    first_inference_ms: Amount
    model_memory_bytes: int


@with_config(READ)
@dataclass(frozen=True, kw_only=True)
class OperatorTimes:
    """The time of an artifact's operators, the slowest first: by kind, and one by one."""

    kinds: tuple[OperatorTime, ...]
    operators: tuple[OperatorTime, ...]


@with_config(READ)
@dataclass(frozen=True, kw_only=True)
class Times:
    """The document of `bench --json`, with `operators` by the artifacts' labels after `--per-op`."""

    connection: str
    threads: Count
    rounds: Count
    artifacts: tuple[TimedArtifact, ...]
    operators: dict[str, OperatorTimes] | None = None


@with_config(READ)
@dataclass(frozen=True, kw_only=True)
class CountedInstructions:
    """Executed instructions: medians of the repeats, and the range of these by their median."""

    load: Count
    per_inference: Count
    spread: Amount


@with_config(READ)
@dataclass(frozen=True, kw_only=True)
class CountedArtifact(MeasuredArtifact):
    """What one artifact executes."""

    instructions: CountedInstructions


@with_config(READ)
@dataclass(frozen=True, kw_only=True)
class Counts:
    """The document of `bench --instructions --json`."""

    connection: str
    artifacts: tuple[CountedArtifact, ...]


@with_config(READ)
@dataclass(frozen=True, kw_only=True)
class LayerCheck:
    """How one layer in an engine compares with the reference; `edgecompile.layer_tally.LayerResult`."""

    name: str
    kind: str
    where: str
    exact: bool
    identical: Amount
    within: Amount
    largest_step: Count
    passed: bool


@with_config(READ)
@dataclass(frozen=True, kw_only=True)
class Validated:
    """The document of `validate --json`; `artifacts` holds the SHA-256 of each by its format."""

    bundle: str
    samples: Count
    passed: bool
    artifacts: dict[str, str]
    notes: tuple[str, ...]
    quality: tuple[QualityRow, ...]
    layers: dict[str, tuple[LayerCheck, ...]]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """All documents, by their kind."""

    times: tuple[Times, ...] = ()
    counts: tuple[Counts, ...] = ()
    validated: tuple[Validated, ...] = ()

    def of(self, hashes: Collection[str]) -> Measured:
        """Return the documents that measured one of these files, given by their SHA-256."""
        return Measured(
            times=tuple(item for item in self.times if _hashes(item) & set(hashes)),
            counts=tuple(item for item in self.counts if _hashes(item) & set(hashes)),
            validated=tuple(item for item in self.validated if _hashes(item) & set(hashes)),
        )


def read_measured(paths: Sequence[Path], known: Collection[str]) -> Measured:
    """Read documents.

    Args:
        paths: What `--json` printed, in files.
        known: The SHA-256 of every artifact of the bundles that they are to be of.

    Raises:
        InvalidMeasurementError: A file cannot be read, or is no such document.
        MeasurementMismatchError: A document has none of these artifacts.
    """
    found: dict[type, list[Any]] = {Times: [], Counts: [], Validated: []}
    for path in paths:
        document = _read(path)
        if not _hashes(document) & set(known):
            raise MeasurementMismatchError(
                "nothing that was measured is of the bundle",
                where=str(path),
                expected="an artifact of SHA-256 " + ", ".join(sorted(item[:12] for item in known)),
                found=", ".join(sorted(item[:12] for item in _hashes(document))) or "no artifact",
                hint="the bundle was built again since, or is another one: measure this one",
            )
        found[type(document)].append(document)
    return Measured(times=tuple(found[Times]), counts=tuple(found[Counts]), validated=tuple(found[Validated]))


def _read(path: Path) -> Times | Counts | Validated:
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise InvalidMeasurementError(
            "the file cannot be read", where=str(path), found=error.strerror
        ) from error
    except (ValueError, RecursionError) as error:
        raise InvalidMeasurementError(
            "the file is not JSON", where=str(path), found=str(error), hint=_HINT
        ) from error
    return parse(_kind(data, path), data, InvalidMeasurementError, lambda _: path)


_HINT = "redirect what `edgecompile bench BUNDLE --json` or `edgecompile validate BUNDLE --json` prints to it"


def _kind(data: Any, path: Path) -> type[Times | Counts | Validated]:
    """Return what a document is, by what only its kind has."""
    rows = data.get("artifacts") if isinstance(data, dict) else None
    if isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows):
        if "instructions" in rows[0]:
            return Counts
        if "latency_ms" in rows[0]:
            return Times
    if isinstance(data, dict) and "passed" in data and "quality" in data:
        return Validated
    raise InvalidMeasurementError(
        "the file is no measurement",
        where=str(path),
        expected="what `bench --json` or `validate --json` prints",
        found=_shape(data),
        hint=_HINT,
    )


def _shape(data: Any) -> str:
    if not isinstance(data, dict):
        return f"a JSON {type(data).__name__}"
    return "a JSON object with " + (", ".join(sorted(map(repr, data))[:8]) or "no keys")


def _hashes(document: Times | Counts | Validated) -> set[str]:
    if isinstance(document, Validated):
        return set(document.artifacts.values())
    return {row.sha256 for row in document.artifacts}
