"""How good each layer of a quantized program is: the `layers` of report.json."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, with_config

from edgecompile.errors import InvalidReportError
from edgecompile.strict_toml import STRICT, parse

# A layer in eight bits has 29 to 46 dB of its own in networks that keep their accuracy, and adds a few dB to
# the errors before it; docs/inspect.md has the measurements.
LOW_SQNR_DB = 25.0
LARGE_FALL_DB = 10.0


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class LayerQuality:
    """A quantized layer; or what was not compared, an operator in float, with the reason and no numbers.

    Attributes:
        kind: The computing operator, `conv2d`.
        inputs: What it reads: names of rows, or inputs of the model.
        sqnr_db: Of its output against float, end to end: with the errors of all layers before it. None where
            nothing differs.
        own_sqnr_db: The same where the layer reads float's own values, quantized to its input grid: what it
            loses by itself.
        minimum: The least float value of its output, and `maximum` the greatest; None where it is no number.
        clipped_share: The share of these values, 0 to 1, outside the quantized range: those whose nearest
            integer is below `quant_min` or above `quant_max`.
        reason: Why it was not compared; None where it was.
    """

    name: str
    kind: str
    where: str
    inputs: tuple[str, ...]
    sqnr_db: float | None = None
    own_sqnr_db: float | None = None
    minimum: float | None = None
    maximum: float | None = None
    clipped_share: Annotated[float, Field(ge=0, le=1)] | None = None
    scale: Annotated[float, Field(gt=0)] | None = None
    zero_point: int | None = None
    reason: str | None = None


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class LayerReport:
    """All layers of a program, in graph order.

    Attributes:
        samples: How many samples the numbers are of; 0 where no layer is quantized.
        first_fall: The name of the first layer where quality falls.
    """

    samples: int
    first_fall: str | None
    rows: tuple[LayerQuality, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON's types."""
        return dataclasses.asdict(self)

    def fall_text(self) -> str:
        """Say where quality falls first, and what is seen there."""
        if not self.samples:
            return "no layer is quantized"
        by_name = {row.name: row for row in self.rows}
        row = by_name.get(self.first_fall or "")
        if row is None:
            return "quality falls at no single layer"
        place = f"quality falls first at {row.name}" + (f" ({row.where})" if row.where else "")
        if _decibels(row.own_sqnr_db) < LOW_SQNR_DB:
            return f"{place}: by itself it leaves an SQNR of {row.own_sqnr_db:.1f} dB"
        before = _worst_input(row, by_name)
        return f"{place}: end to end from {before:.1f} to {_decibels(row.sqnr_db):.1f} dB"


def layer_report(rows: Sequence[LayerQuality], samples: int) -> LayerReport:
    """Return the report of rows in graph order."""
    return LayerReport(samples=samples, first_fall=first_fall(rows), rows=tuple(rows))


def read_layer_report(report: Mapping[str, Any], where: Path) -> LayerReport:
    """Return the layers that a report.json holds.

    Raises:
        InvalidReportError: There are none, or they do not follow the schema.
    """
    if "layers" not in report:
        raise InvalidReportError(
            "the report does not tell how good each layer is",
            where=str(where),
            hint="an earlier version of edgecompile wrote it: build the bundle again",
        )
    return parse(LayerReport, report["layers"], InvalidReportError, lambda _: where)


def first_fall(rows: Sequence[LayerQuality]) -> str | None:
    """Return the first layer, in graph order, where quality falls.

    It falls where a layer's own SQNR is low: it loses much by itself, whatever came before. And it falls
    where the SQNR end to end is low and much lower than that of each layer it reads: it makes the errors
    that reach it large, as after channels of very different ranges. What many layers add bit by bit is no
    fall.
    """
    by_name = {row.name: row for row in rows}
    for row in rows:
        if row.reason is not None:
            continue
        end_to_end = _decibels(row.sqnr_db)
        falls = end_to_end < LOW_SQNR_DB and _worst_input(row, by_name) - end_to_end >= LARGE_FALL_DB
        if falls or _decibels(row.own_sqnr_db) < LOW_SQNR_DB:
            return row.name
    return None


def _worst_input(row: LayerQuality, by_name: Mapping[str, LayerQuality]) -> float:
    """Return the lowest SQNR of the quantized layers that a layer reads; -infinity where there is none."""
    read = [by_name[name] for name in row.inputs if name in by_name]
    measured = [_decibels(item.sqnr_db) for item in read if item.reason is None]
    return min(measured, default=-math.inf)


def _decibels(sqnr_db: float | None) -> float:
    return math.inf if sqnr_db is None else sqnr_db
