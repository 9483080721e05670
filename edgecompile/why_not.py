"""Everything that was not fused, pruned, quantized or delegated: the `why_not` of report.json."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, with_config

from edgecompile.errors import InvalidReportError
from edgecompile.program import Declined, QuantizedProgram
from edgecompile.strict_toml import STRICT, parse

QUANTIZE = "quantize"
_EMIT = "emit "
_WITH_DELEGATE = ("pte",)
_PRUNING = ("prune", "sparsify")

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class WhyNot:
    """One thing that was not done.

    What has a default is not in the reports of earlier versions.

    Attributes:
        stage: What declined: a pass, `quantize`, or `emit FORMAT`.
        what: The operator.
        where: The user's source line, else the module, or "".
        reason: Why.
        change: What to do about it; "" where nothing is known to help.
        macs_share: Its part of the program's multiply-accumulates, 0 to 1; None where it has none.
        moved_bytes: What it reads and writes for one sample; None where that is not known.
        timed_as: What a trace of operators' times calls it; "" where none does.
    """

    stage: str
    what: str
    where: str
    reason: str
    change: str = ""
    macs_share: Share | None = None
    moved_bytes: Count | None = None
    timed_as: str = ""

    @property
    def format(self) -> str:
        """The format whose emitter declined, or ""."""
        return self.stage.removeprefix(_EMIT) if self.stage.startswith(_EMIT) else ""

    @property
    def declined_by(self) -> str:
        """Which of the compiler's tasks it was left out of, with the pass or the format."""
        if self.stage == QUANTIZE:
            return "quantization"
        if self.format:
            task = "delegation" if self.format in _WITH_DELEGATE else "integer kernels"
            return f"{task} ({self.format})"
        task = "pruning" if self.stage in _PRUNING else "fusion"
        return f"{task} ({self.stage})"

    @property
    def cost(self) -> str:
        """The share of the multiply-accumulates, else the bytes moved; `-` where neither is known."""
        if self.macs_share is not None:
            return f"{self.macs_share:.1%} of MACs"
        if self.moved_bytes is not None:
            return f"{self.moved_bytes / 1000:.1f} KB moved"
        return "-"


def why_not_rows(
    program: QuantizedProgram, emitted: Mapping[str, Sequence[Declined]], macs: int
) -> list[WhyNot]:
    """Return everything that was not done, in the order of the build.

    Args:
        program: What its passes and the quantization declined.
        emitted: What each format's emitter declined.
        macs: Of the whole program.
    """
    rows = [(step.name, row) for step in program.steps for row in step.declined]
    rows += [(QUANTIZE, row) for row in program.unquantized]
    rows += [(f"{_EMIT}{name}", row) for name, declined in emitted.items() for row in declined]
    return [_row(stage, declined, macs) for stage, declined in rows]


def _row(stage: str, declined: Declined, macs: int) -> WhyNot:
    return WhyNot(
        stage=stage,
        what=declined.what,
        where=declined.where,
        reason=declined.reason,
        change=declined.change,
        macs_share=min(declined.macs / macs, 1.0) if macs and declined.macs else None,
        moved_bytes=declined.moved_bytes or None,
        timed_as=declined.timed_as,
    )


def costliest_first(rows: Iterable[WhyNot]) -> list[WhyNot]:
    """Return rows in the order of their cost: shares of MACs first, then bytes moved, then the rest."""
    return sorted(rows, key=lambda row: (-(row.macs_share or 0), -(row.moved_bytes or 0)))


def read_why_not(report: Mapping[str, Any], where: Path) -> tuple[WhyNot, ...]:
    """Return the rows that a report.json holds.

    Raises:
        InvalidReportError: There are none, or they do not follow the schema.
    """
    if "why_not" not in report:
        raise InvalidReportError(
            "the report does not tell what was not done",
            where=str(where),
            hint="an earlier version of edgecompile wrote it: build the bundle again",
        )
    document = {"why_not": report["why_not"]}
    return parse(_Rows, document, InvalidReportError, lambda _: where).why_not


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class _Rows:
    why_not: tuple[WhyNot, ...]


def to_dicts(rows: Sequence[WhyNot]) -> list[dict[str, Any]]:
    """Return rows as JSON's types, as report.json has them."""
    return [dataclasses.asdict(row) for row in rows]
