"""What each layer of a program costs: the `costs` of report.json."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, with_config

from edgecompile.strict_toml import STRICT

Count = Annotated[int, Field(ge=0)]


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """What reads constants, or multiplies two computed values.

    Attributes:
        kind: The computing operator, `conv2d`.
        where: The user's source line, or "".
        macs: Multiply-accumulates for one sample; 0 where it is no convolution, linear layer or product.
        parameters: Elements of its constants; those that another layer reads too are the first one's.
        weight_bytes: What these take as the program stores them, without scales.
    """

    name: str
    kind: str
    where: str
    macs: Count
    parameters: Count
    weight_bytes: Count


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class CostReport:
    """All that costs something in a program, in graph order, and its sums."""

    macs: Count
    parameters: Count
    weight_bytes: Count
    rows: tuple[LayerCost, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON's types."""
        return dataclasses.asdict(self)


def cost_report(rows: Sequence[LayerCost]) -> CostReport:
    """Return the report of rows in graph order."""
    return CostReport(
        macs=sum(row.macs for row in rows),
        parameters=sum(row.parameters for row in rows),
        weight_bytes=sum(row.weight_bytes for row in rows),
        rows=tuple(rows),
    )
