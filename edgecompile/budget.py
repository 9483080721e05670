"""How much quality INT8 may cost: what the options of a build say, and what was tried for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What quality must hold; the worst of a target's engines counts.

    Attributes:
        max_accuracy_drop: By how many percentage points top-1 on the labelled samples may be lower than the
            float model's; None for any.
        min_sqnr_db: The least SQNR of the outputs against the float model's; None for any.
    """

    max_accuracy_drop: float | None = None
    min_sqnr_db: float | None = None

    def __bool__(self) -> bool:
        return self.max_accuracy_drop is not None or self.min_sqnr_db is not None

    def holds(self, sqnr_db: float, accuracy_drop: float | None) -> bool:
        """Tell whether a program is good enough.

        Args:
            sqnr_db: Of its outputs; infinite where nothing differs.
            accuracy_drop: In percentage points; None where nothing is asked of it.
        """
        if self.min_sqnr_db is not None and not sqnr_db >= self.min_sqnr_db:
            return False
        if self.max_accuracy_drop is None:
            return True
        assert accuracy_drop is not None
        return accuracy_drop <= self.max_accuracy_drop + 1e-9  # a share of samples is no round number

    def text(self) -> str:
        """Say it in words."""
        parts = []
        if self.min_sqnr_db is not None:
            parts.append(f"an SQNR of at least {self.min_sqnr_db:g} dB")
        if self.max_accuracy_drop is not None:
            parts.append(f"top-1 at most {self.max_accuracy_drop:g} points below float's")
        return " and ".join(parts)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One program that was measured.

    Attributes:
        layers: The layers that it keeps in float, by name, in graph order.
        sqnr_db: Of its outputs against the float model's; None where nothing differs.
        accuracy_drop: In percentage points; None without labels.
    """

    layers: tuple[str, ...]
    sqnr_db: float | None
    accuracy_drop: float | None
    holds: bool

    def text(self) -> str:
        """Say what it reaches."""
        reached = "no error" if self.sqnr_db is None else f"{self.sqnr_db:.2f} dB"
        if self.accuracy_drop is not None:
            reached += f", {self.accuracy_drop:.2f} points of top-1 lost"
        return reached


@dataclass(frozen=True, kw_only=True)
class KeptLayer:
    """A layer that stays in float.

    Attributes:
        kind: Its operator, `conv2d`.
        where: The user's source line, or "".
        mac_share: Of all multiply-accumulates of the program, 0 to 1.
    """

    name: str
    kind: str
    where: str
    mac_share: float


@dataclass(frozen=True, kw_only=True)
class MixedPrecision:
    """What stays in float so that a budget holds.

    Attributes:
        budget: In words.
        quantizable: How many layers compute in INT8 where none stays in float.
        layers: Those that stay in float.
        nodes: The nodes of the float program that they consist of, and those between them.
        trials: All programs that were measured, in order.
    """

    budget: str
    quantizable: int
    layers: tuple[KeptLayer, ...]
    nodes: tuple[str, ...]
    trials: tuple[Trial, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON's types."""
        return dataclasses.asdict(self)


def mixed_precision_from_dict(document: Mapping[str, Any]) -> MixedPrecision:
    """Return what `to_dict` gave, read back from JSON."""
    return MixedPrecision(
        budget=document["budget"],
        quantizable=document["quantizable"],
        layers=tuple(KeptLayer(**row) for row in document["layers"]),
        nodes=tuple(document["nodes"]),
        trials=tuple(Trial(**row | {"layers": tuple(row["layers"])}) for row in document["trials"]),
    )
