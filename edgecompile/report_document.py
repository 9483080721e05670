"""report.json as it is read back: from disk, so every field is checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, with_config

from edgecompile.artifact import REPORT, Bundle
from edgecompile.budget import MixedPrecision
from edgecompile.errors import InvalidReportError
from edgecompile.finding import Finding
from edgecompile.input_range import InputRange
from edgecompile.layer_costs import CostReport
from edgecompile.layer_quality import LayerReport
from edgecompile.program import Precision, StepRecord
from edgecompile.pruning.pruning_report import PruningReport, RecoveryRow
from edgecompile.pruning.sparsity_report import CompressedArtifact, SparseLayer
from edgecompile.sample_scores import SampleScores
from edgecompile.sensitivity import SensitivityReport
from edgecompile.strict_toml import STRICT, parse
from edgecompile.why_not import WhyNot

Share = Annotated[float, Field(ge=0, le=1)]


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class ClosenessRow:
    """How close outputs are to float's; `edgecompile.compare.Closeness`, but None for no error at all."""

    sqnr_db: float | None
    max_abs_error: float
    agreement: Share | None


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class EqualityRow:
    """How a native run compares with the same artifact on the host; `edgecompile.evaluate.Equality`."""

    name: str
    identical: Share
    first_sample: int | None
    max_abs_difference: float


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class QualityRow:
    """What computed, and how good it was; `edgecompile.evaluate.Quality`."""

    name: str
    against_float: ClosenessRow | None
    accuracy: Share | None
    reference: ClosenessRow | None
    identical: Share | None
    as_here: EqualityRow | None
    missed: tuple[str, ...]


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class ArtifactRow:
    """An artifact as the report has it; the manifest has its hash too."""

    format: str
    engine: str
    size_bytes: int
    operators: dict[str, int]
    delegates: dict[str, int]


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class SparsityDocument:
    """What was zeroed, and what it buys; `edgecompile.pruning.sparsity_report.SparsityReport`."""

    wanted: str
    share: Share
    accuracy: Share | None
    recovery: tuple[RecoveryRow, ...]
    layers: tuple[SparseLayer, ...]
    zeroed: Share
    found: Share
    artifacts: tuple[CompressedArtifact, ...]


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class ReportDocument:
    """A report.json; `edgecompile.report.Report` says what its parts are.

    Attributes:
        costs: None where an earlier version wrote the report; so are `scores` and the hashes of the data.
    """

    name: str
    target: str
    precision: Precision
    samples: int
    data: str
    float_weight_bytes: int
    artifacts: tuple[ArtifactRow, ...]
    quality: tuple[QualityRow, ...]
    data_sha256: str | None = None
    calibration_sha256: str | None = None
    scores: dict[str, SampleScores] | None = None
    layers: LayerReport
    costs: CostReport | None = None
    sensitivity: SensitivityReport | None
    mixed_precision: MixedPrecision | None
    pruning: PruningReport | None
    sparsity: SparsityDocument | None
    input_ranges: tuple[InputRange, ...]
    findings: tuple[Finding, ...]
    steps: tuple[StepRecord, ...]
    why_not: tuple[WhyNot, ...]


def read_report(bundle: Bundle) -> ReportDocument:
    """Return the report of a bundle.

    Raises:
        AlteredFileError: It is not the one that was built.
        InvalidReportError: It does not follow the schema.
    """
    where = bundle.path / REPORT
    return parse(ReportDocument, bundle.report_dict(), InvalidReportError, lambda _: where)
