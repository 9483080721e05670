"""Reads from a bundle what a baseline keeps of it; nothing runs."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from pathlib import Path

from edgecompile.artifact import REPORT, Artifact, Bundle, TensorEntry
from edgecompile.errors import InvalidReportError
from edgecompile.goldens import read_goldens
from edgecompile.inspect_artifact import inspect
from edgecompile.readers.contents import ArtifactContents
from edgecompile.regression.facts import ArtifactFacts, BuildFacts, InputFacts, LayerFacts, TensorFacts
from edgecompile.regression.sketch import sketch
from edgecompile.report_document import read_report
from edgecompile.sample_scores import SampleScores
from edgecompile.why_not import QUANTIZE


def read_facts(bundle: Bundle, contents: Mapping[str, ArtifactContents] | None = None) -> BuildFacts:
    """Return what a bundle's own files say of it.

    Args:
        bundle: The bundle.
        contents: What is in each artifact, by format, where that has been read: asking ONNX Runtime takes a
            second.

    Raises:
        AlteredFileError: A file is not the one that was built.
        InvalidReportError: The report lacks something, or is damaged.
        UnreadableArtifactError: An artifact is damaged.
    """
    bundle.verify()
    where = str(bundle.path / REPORT)
    report = read_report(bundle)
    if report.scores is None or report.data_sha256 is None:
        raise InvalidReportError(
            "the report does not tell how good each sample is",
            where=where,
            hint="an earlier version of edgecompile wrote it: build the bundle again",
        )
    _, float_outputs = read_goldens(bundle)
    manifest = bundle.manifest
    identical = {row.name: row.identical for row in report.quality}
    if contents is None:
        contents = {item.contents.format: item.contents for item in inspect(bundle.path).artifacts}
    artifacts = {}
    for item in manifest.artifacts:
        scores, share = report.scores.get(item.format), identical.get(item.format)
        if scores is None or share is None:
            raise InvalidReportError(f"the report has no quality of {item.format!r}", where=where)
        artifacts[item.format] = _artifact(item, contents[item.format], share, scores)
    facts = BuildFacts(
        name=manifest.name,
        target=manifest.target,
        precision=manifest.precision,
        inputs=tuple(map(_tensor, manifest.inputs)),
        outputs=tuple(map(_tensor, manifest.outputs)),
        host=_host(),
        samples=report.samples,
        data_sha256=report.data_sha256,
        calibration_sha256=report.calibration_sha256,
        float_correct=report.scores["float"].correct if "float" in report.scores else None,
        float_sketch=sketch([[value.numpy() for value in golden] for golden in float_outputs]),
        float_operators=sum(row.stage == QUANTIZE for row in report.why_not),
        artifacts=artifacts,
        input_ranges={
            row.name: InputFacts(low=row.low, high=row.high, outside=round(row.outside, 6))
            for row in report.input_ranges
        },
        layers={
            row.name: LayerFacts(
                kind=row.kind,
                where=row.where,
                sqnr_db=_hundredths(row.sqnr_db),
                own_sqnr_db=_hundredths(row.own_sqnr_db),
                clipped_share=round(row.clipped_share, 6),
                scale=float(f"{row.scale:.6g}"),
                zero_point=row.zero_point,
            )
            for row in report.layers.rows
            if row.clipped_share is not None and row.scale is not None and row.zero_point is not None
        },
    )
    problem = facts.inconsistent()
    if problem:
        raise InvalidReportError("the report is damaged", where=where, found=problem)
    return facts


def _artifact(
    item: Artifact, contents: ArtifactContents, identical: float, scores: SampleScores
) -> ArtifactFacts:
    if contents.delegates:
        operators = contents.outside_delegate | contents.copies
    else:
        operators = contents.optimized_operators or contents.operators
    return ArtifactFacts(
        sha256=item.sha256,
        size_bytes=item.size_bytes,
        operators=dict(sorted(operators.items())),
        delegate_calls=sum(contents.delegates.values()),
        identical=identical,
        scores=scores,
    )


def _tensor(entry: TensorEntry) -> TensorFacts:
    return TensorFacts(name=entry.name, shape=entry.shape, dtype=entry.dtype)


def _host() -> str:
    try:
        names = re.findall(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _hundredths(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
