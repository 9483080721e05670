"""What is odd about the data: looked for in every build, told while it runs, and kept for the report."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecompile.cache import digest
from edgecompile.dataset import Dataset, spread
from edgecompile.finding import Finding
from edgecompile.input_range import InputRange, input_ranges
from edgecompile.program import QuantizedProgram
from edgecompile.stage_cache import HashedFile, Result, StageCache
from edgecompile.stages.reads import tools

if TYPE_CHECKING:
    from edgecompile.target import Target

# Of n samples and one more, drawn alike, each is equally likely to hold a value's extreme. So the next
# input exceeds what n samples measured, at either end, in up to 2 of n + 1 cases: with 16 in one of eight.
# Measured on EfficientNet-Lite0: 16 pictures are within 0.2 dB of 64; 4 cost up to 0.4, one up to 6.5 dB.
_FEW_SAMPLES = 16
# N sound values leave 2 of N + 1 others outside their extremes, and the range of the least error gives up
# less than one of 10,000 of bell-shaped values (Banner et al. 2019, arXiv:1810.05723). This is far more.
_MAX_OUTSIDE = 0.01
_SHOWN_INDICES = 5


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What was found in the data and in calibration.

    Attributes:
        rows: Each thing that is odd.
        input_ranges: The calibrated range of each quantized input, beside the evaluation data's.
    """

    rows: tuple[Finding, ...]
    input_ranges: tuple[InputRange, ...]


class KeptFindings:
    """Keeps the findings."""

    name = "findings"

    def write(self, value: Findings, file: HashedFile) -> dict[str, Any]:
        """Write them as JSON."""
        file.write(json.dumps(dataclasses.asdict(value)).encode())
        return {}

    def read(self, path: Path, summary: dict[str, Any]) -> Findings:
        """Return them."""
        document = json.loads(path.read_bytes())
        return Findings(
            rows=tuple(Finding(**row) for row in document["rows"]),
            input_ranges=tuple(InputRange(**row) for row in document["input_ranges"]),
        )

    def can_keep(self, value: Findings) -> bool:
        """Findings can always be kept."""
        return True


def findings(
    cache: StageCache,
    *,
    program: Result[QuantizedProgram],
    calibration: Result[Dataset] | None,
    data: Result[Dataset],
    target: Target,
) -> Result[Findings]:
    """Return what is odd about the data and about what calibration saw.

    Args:
        cache: Keeps them.
        program: As the target wants it.
        calibration: What its ranges were chosen on; None where it has none.
        data: What its quality is measured on; may be the calibration data.
        target: Says how many calibration samples are used.
    """
    limit = target.quantization.calibration_samples
    of_program = program.summary.get("findings", [])

    def make() -> Findings:
        from edgecompile.signature import inputs_of

        ranges = tuple(input_ranges(inputs_of(program.value().exported), data.value().samples))
        rows = [Finding(**row) for row in of_program]
        if calibration is not None:
            rows = [*_of_calibration(calibration.summary, limit), *rows]
            rows += _of_both(calibration, data)
        rows += _of_sizes(data.summary)
        return Findings(rows=(*rows, *_of_inputs(ranges, data.summary["spec"])), input_ranges=ranges)

    sources = (data,) if calibration is None else (data, calibration)
    key = digest(
        "findings",
        program.digest,
        json.dumps(of_program),
        str(limit),
        str(calibration is data),
        *(text for source in sources for text in (source.digest, source.summary["spec"])),
        tools(),
    )
    return cache.result(KeptFindings(), key, make)


def note_findings(cache: StageCache, found: Sequence[Result[Findings]]) -> None:
    """Tell of each kind once, whether it was found now or is known from an earlier build."""
    if cache.planned is not None:
        return
    kinds: dict[str, list[Finding]] = {}
    for row in dict.fromkeys(row for result in found for row in result.value().rows):
        kinds.setdefault(row.code, []).append(row)
    for first, *others in kinds.values():
        where = f" at {first.where}" if first.where else ""
        more = f" (and {len(others)} more in the report)" if others else ""
        cache.progress.note(f"{first.what}{where}: {first.text}{more}")


def _of_calibration(facts: dict[str, Any], limit: int) -> Iterator[Finding]:
    used = spread(facts["samples"], limit)
    different = len(set(used))
    if different == 1 < len(used):
        yield Finding(
            code="identical-calibration-samples",
            what=facts["spec"],
            text=f"all {len(used)} calibration samples are the same: the ranges are those of one input",
        )
    elif different < _FEW_SAMPLES:
        count = f"{len(used)} calibration samples" if len(used) > 1 else "one calibration sample"
        count += f", {different} of them different," if different < len(used) else ""
        yield Finding(
            code="few-calibration-samples",
            what=facts["spec"],
            text=f"{count} may be too few: another typical input leaves the range that they give a layer "
            f"with a chance of up to {min(1, 2 / (different + 1)):.0%}; use some 100",
        )
    for name in facts["flat"]:
        yield Finding(
            code="constant-input",
            what=facts["spec"],
            text=f"the input {name!r} has equal elements throughout every calibration sample",
        )


def _of_sizes(facts: dict[str, Any]) -> Iterator[Finding]:
    for name in facts["single"]:
        yield Finding(
            code="single-size",
            what=facts["spec"],
            text=f"every sample has the same {name!r}, which is dynamic: the quality is that of one size",
        )


def _of_both(calibration: Result[Dataset], data: Result[Dataset]) -> Iterator[Finding]:
    """Compare evaluation data with calibration data, where there are both."""
    if data is calibration:
        return
    known, own = set(calibration.summary["samples"]), data.summary["samples"]
    shared = [index for index, sample in enumerate(own) if sample in known]
    if not shared:
        return
    indices = ", ".join(str(index) for index in shared[:_SHOWN_INDICES])
    more = ", ..." if len(shared) > _SHOWN_INDICES else ""
    yield Finding(
        code="overlapping-data",
        what=data.summary["spec"],
        text=f"{len(shared)} of {len(own)} evaluation samples are calibration samples too ({indices}{more}): "
        "the quality is measured on what the ranges were chosen on",
    )


def _of_inputs(ranges: Sequence[InputRange], spec: str) -> Iterator[Finding]:
    for row in ranges:
        if row.outside > _MAX_OUTSIDE:
            yield Finding(
                code="clipped-input",
                what=spec,
                text=f"{row.outside:.1%} of the elements of the input {row.name!r} are clipped: they go from "
                f"{row.seen_low:.4g} to {row.seen_high:.4g}, its calibrated range is {row.low:.4g} to "
                f"{row.high:.4g}",
            )
