"""One bundle as a page shows it: its report, its manifest and what was measured of it, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from edgecompile.artifact import Artifact, Bundle, Manifest
from edgecompile.report_document import QualityRow, ReportDocument
from edgecompile.report_page.measured import (
    CountedArtifact,
    Counts,
    Measured,
    OperatorTimes,
    TimedArtifact,
    Times,
)
from edgecompile.report_page.why_not_times import time_shares
from edgecompile.why_not import WhyNot


@dataclass(frozen=True)
class BundleFacts:
    """What a page is made from.

    Attributes:
        measured: What was measured of this bundle's artifacts.
        letter: What the bundle is called beside others; "" where it is alone.
    """

    bundle: Bundle
    report: ReportDocument
    measured: Measured
    letter: str = ""

    @property
    def manifest(self) -> Manifest:
        """What the bundle is."""
        return self.bundle.manifest

    @property
    def artifacts(self) -> tuple[Artifact, ...]:
        """The artifacts, in the order of the target's formats."""
        return self.manifest.artifacts

    @cached_property
    def hashes(self) -> frozenset[str]:
        """The SHA-256 of each artifact."""
        return frozenset(item.sha256 for item in self.artifacts)

    @property
    def of_float(self) -> QualityRow | None:
        """The row of the float model."""
        return next((row for row in self.report.quality if row.against_float is None), None)

    def quality(self, artifact: Artifact) -> QualityRow | None:
        """Return how good an artifact is in its engine on the host."""
        return next((row for row in self.report.quality if row.name == artifact.format), None)

    def counted(self, counts: Counts, artifact: Artifact) -> tuple[CountedArtifact, float | None] | None:
        """Return what an artifact executes, and that as a share of an FP32 artifact's of its format."""
        own = next((row for row in counts.artifacts if row.sha256 == artifact.sha256), None)
        if own is None:
            return None
        other = _in_float(counts.artifacts, artifact, self.hashes)
        if not isinstance(other, CountedArtifact) or not other.instructions.per_inference:
            return own, None
        return own, own.instructions.per_inference / other.instructions.per_inference

    def timed(self, times: Times, artifact: Artifact) -> tuple[TimedArtifact, float | None] | None:
        """Return an artifact's times, and its ratio to an FP32 artifact of its format."""
        own = next((row for row in times.artifacts if row.sha256 == artifact.sha256), None)
        if own is None:
            return None
        other = _in_float(times.artifacts, artifact, self.hashes)
        if not isinstance(other, TimedArtifact) or not other.ratio.median:
            return own, None
        return own, own.ratio.median / other.ratio.median  # of the same rounds

    def operators(self) -> list[tuple[str, str, OperatorTimes]]:
        """Return the connection, label and operators of each trace of this bundle's artifacts."""
        return [
            (times.connection, row.artifact, times.operators[row.artifact])
            for times in self.measured.times
            for row in times.artifacts
            if row.sha256 in self.hashes and times.operators and row.artifact in times.operators
        ]

    @cached_property
    def time_shares(self) -> dict[WhyNot, float]:
        """The share of an inference of each thing that was not done, where that was measured."""
        return time_shares(self.report.why_not, self.artifacts, self.measured.times)

    @cached_property
    def missed(self) -> list[str]:
        """What does not hold, in words."""
        found = [f"{row.name}: {text}" for row in self.report.quality for text in row.missed]
        for document in self.measured.validated:
            found += [f"{row.name}, validated: {text}" for row in document.quality for text in row.missed]
            for name, layers in document.layers.items():
                wrong = [layer.name for layer in layers if not layer.passed]
                if wrong:
                    found.append(
                        f"{name}, validated: {len(wrong)} layers differ from the reference, first {wrong[0]}"
                    )
        return found


def _in_float(
    rows: Sequence[CountedArtifact | TimedArtifact], artifact: Artifact, own: frozenset[str]
) -> CountedArtifact | TimedArtifact | None:
    """Return the FP32 artifact of the same format that was measured beside, if there is just one."""
    found = [
        row
        for row in rows
        if row.precision == "fp32" and row.format == artifact.format and row.sha256 not in own
    ]
    return found[0] if len(found) == 1 else None
