"""What was pruned and what came of it: how the report and `inspect --groups` know it, without torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Measure = Literal["macs", "parameters", "size", "latency"]
Importance = Literal["l1", "l2", "batch-norm", "activation", "taylor", "reconstruction"]

COSTS: tuple[Literal["macs", "parameters"], ...] = ("macs", "parameters")
MEASURE_NAMES: Mapping[Measure, str] = {
    "macs": "MACs",
    "parameters": "parameters",
    "size": "bytes",
    "latency": "predicted latency",
}


@dataclass(frozen=True, kw_only=True)
class GroupRow:
    """One group of channels.

    Attributes:
        name: Its first layer.
        layers: Those that make its channels.
        where: The user's source line, or "".
        width: The channels of its first layer.
        units: How many units it has: what can only go together.
        removable: How many of them can go.
        left: How many stay.
        macs: Of the layers that make or read its channels, for one sample.
        parameters: The same.
        reasons: Why units have to stay.
    """

    name: str
    layers: tuple[str, ...]
    where: str
    width: int
    units: int
    removable: int
    left: int
    macs: int
    parameters: int
    reasons: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a program costs for one sample."""

    macs: int
    parameters: int


@dataclass(frozen=True, kw_only=True)
class ModelGroups:
    """The groups of a model before anything is pruned.

    Attributes:
        total: What the model costs.
        prunable: What of that pruning can change.
        groups: In the order of their first layers.
    """

    total: Cost
    prunable: Cost
    groups: tuple[GroupRow, ...]


@dataclass(frozen=True, kw_only=True)
class RecoveryRow:
    """How good a pruned program in float is beside the original.

    Attributes:
        step: `removed`, `least squares` or `distilled`; of zeros, `zeroed` or `compensated`.
        sqnr_db: Of its outputs; None where nothing differs.
        agreement: Of top-1 with the original, 0 to 1; None where the outputs are no classes.
        accuracy: Top-1 on the labels, 0 to 1; None without labels.
    """

    step: str
    sqnr_db: float | None
    agreement: float | None
    accuracy: float | None


@dataclass(frozen=True, kw_only=True)
class PruningReport:
    """What was removed, that it was removed rightly, and how good what is left is.

    Attributes:
        measure: What a share was removed of.
        wanted: That share of what can be removed at all, 0 to 1.
        removed: The share that is gone.
        before: The cost of the original.
        after: The cost of what is left.
        prunable: The original's cost, in the measure, of all that pruning can change.
        proof_samples: On how many samples the proof ran.
        proof_error: The greatest difference from the original with the same channels zeroed, a share of the
            outputs' greatest absolute value.
        accuracy: Top-1 of the original, 0 to 1; None without labels.
        recovery: In order.
        groups: All groups.
    """

    measure: Measure
    wanted: float
    removed: float
    before: Cost
    after: Cost
    prunable: float
    proof_samples: int
    proof_error: float
    accuracy: float | None
    recovery: tuple[RecoveryRow, ...]
    groups: tuple[GroupRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON's types."""
        return dataclasses.asdict(self)


def group_row_from_dict(row: Mapping[str, Any]) -> GroupRow:
    """Return the row that `dataclasses.asdict` gave."""
    return GroupRow(**{**row, "layers": tuple(row["layers"]), "reasons": tuple(row["reasons"])})


def pruning_report_from_dict(document: Mapping[str, Any]) -> PruningReport:
    """Return what `to_dict` gave, read back from JSON."""
    rows: Sequence[Mapping[str, Any]] = document["recovery"]
    return PruningReport(
        **{
            **document,
            "before": Cost(**document["before"]),
            "after": Cost(**document["after"]),
            "recovery": tuple(RecoveryRow(**row) for row in rows),
            "groups": tuple(group_row_from_dict(row) for row in document["groups"]),
        }
    )
