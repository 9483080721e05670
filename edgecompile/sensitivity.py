"""How much each layer's rounding costs at the outputs: the `sensitivity` of report.json."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, with_config

from edgecompile.decibels import LOWEST_SQNR_DB, stored_sqnr_db
from edgecompile.errors import InvalidReportError
from edgecompile.strict_toml import STRICT, parse

Share = Annotated[float, Field(ge=0, le=1)]
Decibels = Annotated[float, Field(ge=LOWEST_SQNR_DB)]


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One way of rounding, on one sample.

    Attributes:
        noise: The energy of the outputs' difference from float.
        is_right: Whether the top-1 of the first output is the label; None without one.
    """

    noise: float
    is_right: bool | None


@dataclass(frozen=True, kw_only=True)
class SampleNoise:
    """What the parts of a program cost on one sample; the mappings are by the part's name.

    Attributes:
        signal: The energy of the float outputs.
        in_float: Nothing is rounded.
        rounded: All is.
        alone: One part is, and nothing else.
        weights: Of it the weights are, where there are some.
        without: All is but the part.
    """

    signal: float
    in_float: Tried
    rounded: Tried
    alone: Mapping[str, Tried]
    weights: Mapping[str, Tried]
    without: Mapping[str, Tried]


@dataclass(frozen=True, kw_only=True)
class PartName:
    """What is rounded together: a layer, or a value that no layer gives.

    Attributes:
        kind: The operator, `conv2d`, or `input`.
        where: The user's source line, or "".
    """

    name: str
    kind: str
    where: str


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class PartSensitivity(PartName):
    """How a part's rounding changes the outputs; SQNRs are of the outputs against float, None for no error.

    Attributes:
        alone_sqnr_db: Where nothing else is rounded.
        has_weights: Whether it has weights that are rounded.
        weights_sqnr_db: Where nothing but its weights is; None too where it has none.
        without_sqnr_db: Where all else is rounded.
        alone_accuracy: Top-1 of `alone_sqnr_db`, 0 to 1; None without labels.
        without_accuracy: Top-1 of `without_sqnr_db`.
    """

    alone_sqnr_db: Decibels | None
    has_weights: bool
    weights_sqnr_db: Decibels | None
    without_sqnr_db: Decibels | None
    alone_accuracy: Share | None
    without_accuracy: Share | None


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class SensitivityReport:
    """All parts of a program, in graph order.

    Attributes:
        samples: How many the numbers are of.
        sqnr_db: Where all parts are rounded.
        float_accuracy: Top-1 in float, 0 to 1; None where not every sample has a label.
        accuracy: Top-1 where all parts are rounded.
    """

    samples: int
    sqnr_db: Decibels | None
    float_accuracy: Share | None
    accuracy: Share | None
    rows: tuple[PartSensitivity, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON's types."""
        return dataclasses.asdict(self)


def sample_noise_from_dict(row: dict[str, Any]) -> SampleNoise:
    """Return the numbers that `dataclasses.asdict` gave."""

    def by_part(name: str) -> dict[str, Tried]:
        return {part: Tried(**item) for part, item in row[name].items()}

    return SampleNoise(
        signal=row["signal"],
        in_float=Tried(**row["in_float"]),
        rounded=Tried(**row["rounded"]),
        alone=by_part("alone"),
        weights=by_part("weights"),
        without=by_part("without"),
    )


def sensitivity_report(parts: Sequence[PartName], samples: Sequence[SampleNoise]) -> SensitivityReport:
    """Add up samples: energies over all of them, then the ratio."""
    signal = sum(sample.signal for sample in samples)

    def decibels(tried: Sequence[Tried]) -> float | None:
        return stored_sqnr_db(signal, sum(item.noise for item in tried))

    def accuracy(tried: Sequence[Tried]) -> float | None:
        known = [item.is_right for item in tried if item.is_right is not None]
        return sum(known) / len(known) if len(known) == len(tried) else None

    def row(part: PartName) -> PartSensitivity:
        alone = [sample.alone[part.name] for sample in samples]
        without = [sample.without[part.name] for sample in samples]
        weights = [sample.weights[part.name] for sample in samples if part.name in sample.weights]
        return PartSensitivity(
            name=part.name,
            kind=part.kind,
            where=part.where,
            alone_sqnr_db=decibels(alone),
            has_weights=bool(weights),
            weights_sqnr_db=decibels(weights) if weights else None,
            without_sqnr_db=decibels(without),
            alone_accuracy=accuracy(alone),
            without_accuracy=accuracy(without),
        )

    return SensitivityReport(
        samples=len(samples),
        sqnr_db=decibels([item.rounded for item in samples]),
        float_accuracy=accuracy([item.in_float for item in samples]),
        accuracy=accuracy([item.rounded for item in samples]),
        rows=tuple(map(row, parts)),
    )


def read_sensitivity_report(report: Mapping[str, Any], where: Path) -> SensitivityReport:
    """Return the sensitivity that a report.json holds.

    Raises:
        InvalidReportError: There is none, or it does not follow the schema.
    """
    if report.get("sensitivity") is None:
        raise InvalidReportError(
            "the report does not tell how sensitive each layer is",
            where=str(where),
            hint="build the bundle again with `--sensitivity`",
        )
    return parse(SensitivityReport, report["sensitivity"], InvalidReportError, lambda _: where)
