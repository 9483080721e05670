"""From a model's output to named classes, the same on every platform. Needs numpy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Class:
    """One class that a model sees.

    Attributes:
        index: Its place in the output.
        label: Its name; its place as text where there are no names.
        score: Its share of 1 after softmax, else what the output says.
    """

    index: int
    label: str
    score: float


def top_classes(
    output: np.ndarray[Any, Any], *, softmax: bool, top_k: int, labels: tuple[str, ...] | None
) -> tuple[Class, ...]:
    """Return the classes with the highest values, the highest first and of equal ones the first.

    Args:
        output: Any shape, one value for each class; NaN counts as less than all.
        softmax: Whether scores are shares of 1, in float64.
        top_k: How many.
        labels: A name for each class.
    """
    values = output.reshape(-1).astype(np.float64)
    values[np.isnan(values)] = -np.inf
    order = np.argsort(-values, kind="stable")[:top_k]
    scores = _softmax(values) if softmax else values
    return tuple(
        Class(index=int(index), label=labels[index] if labels else str(index), score=float(scores[index]))
        for index in order
    )


def _softmax(values: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    highest = values.max()
    # Where the highest is infinite, those that have it share all.
    powers = np.exp(values - highest) if np.isfinite(highest) else (values == highest).astype(np.float64)
    return np.asarray(powers / powers.sum())
