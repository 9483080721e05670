"""How much of a program is quantized and delegated: what `build --plan` foresees."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from edgecompile.program import Precision
from edgecompile.text_table import WIDTH
from edgecompile.why_not import QUANTIZE, WhyNot
from edgecompile.why_not_text import why_not_text


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """What a build for one target would quantize and delegate.

    Attributes:
        operators: How many compute.
        quantized: How many of them in integers, or with integer weights.
        macs: Multiply-accumulates for one sample.
        quantized_macs_share: The part of these in the quantized operators, 0 to 1; None where there are none.
        delegates: The calls of each delegate, by format, for the formats that can be foreseen.
        why_not: What would not be fused, quantized or delegated.
        unknown: The formats of which only emitting tells what is in them.
        notes: What the build does that is not foreseen.
    """

    target: str
    precision: Precision
    operators: int
    quantized: int
    macs: int
    quantized_macs_share: float | None
    delegates: dict[str, dict[str, int]]
    why_not: tuple[WhyNot, ...]
    unknown: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def in_float(self) -> tuple[WhyNot, ...]:
        """What the quantization would leave in float."""
        return tuple(row for row in self.why_not if row.stage == QUANTIZE)

    def declined_in(self, format_name: str) -> tuple[WhyNot, ...]:
        """Return what a format's emitter would decline."""
        return tuple(row for row in self.why_not if row.format == format_name)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON's types."""
        rows = [{**asdict(row), "declined_by": row.declined_by} for row in self.why_not]
        return {**asdict(self), "why_not": rows, "is_prediction": True}

    def text(self, width: int = WIDTH) -> str:
        """Return a few lines, and the table of what would be left."""
        lines = [f"coverage of {self.target}, predicted: {self._quantization()}"]
        lines += [self._format(name, calls) for name, calls in self.delegates.items()]
        lines += [f"  {name}: only the build tells" for name in self.unknown]
        lines += [f"  note: {note}" for note in self.notes]
        table = "\n" + why_not_text(self.why_not, width=width) if self.why_not else ""
        return "\n".join(lines) + "\n" + table

    def _quantization(self) -> str:
        if self.precision == "fp32":
            return f"{self.operators} operators, all in float"
        share = self.quantized_macs_share
        macs = "" if share is None else f"{share:.1%} of MACs and "
        return f"{macs}{self.quantized} of {self.operators} operators in {self.precision}"

    def _format(self, name: str, calls: dict[str, int]) -> str:
        made = [_counted(count, f"{delegate} call") for delegate, count in calls.items()]
        left = Counter(row.what.partition(" (")[0] for row in self.declined_in(name))
        kind = "outside the delegate" if name == "pte" else "in float"
        said = f"{_counted(left.total(), 'operator')} {kind}"
        if left:
            said += ": " + ", ".join(f"{count} {operator}" for operator, count in left.most_common())
        return f"  {name}: " + ", ".join([*made, said])


def _counted(count: int, noun: str) -> str:
    return f"{count or 'no'} {noun}{'' if count == 1 else 's'}"
