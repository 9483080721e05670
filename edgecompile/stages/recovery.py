"""How good a changed float program is beside the original."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgecompile.dataset import Dataset
from edgecompile.pruning.pruning_report import RecoveryRow

if TYPE_CHECKING:
    from edgecompile.compare import Outputs


def labels_of(data: Dataset) -> list[int] | None:
    """Return the labels of data; None where some sample has none."""
    labels = [sample.label for sample in data.samples if sample.label is not None]
    return labels if len(labels) == len(data.samples) else None


def recovery_row(step: str, own: Outputs, originals: Outputs, labels: list[int] | None) -> RecoveryRow:
    """Return a report's row on a program's outputs."""
    from edgecompile.compare import closeness
    from edgecompile.decibels import LOWEST_SQNR_DB

    found = closeness(own, originals)
    return RecoveryRow(
        step=step,
        sqnr_db=max(found.sqnr_db, LOWEST_SQNR_DB) if found.sqnr_db != float("inf") else None,
        agreement=found.agreement,
        accuracy=top1(own, labels),
    )


def top1(outputs: Outputs, labels: list[int] | None) -> float | None:
    """Return the share of outputs, 0 to 1, that name their label; None without labels."""
    from edgecompile.compare import accuracy

    return None if labels is None else accuracy(outputs, labels)
