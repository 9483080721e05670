"""A few numbers that stand for a model's outputs: two models' outputs can be compared by them alone.

Random projections keep distances (Achlioptas 2003, "Database-friendly random projections"): with signs for
weights, the mean square of the projected difference is that of the difference itself, whatever it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgecompile.decibels import sqnr_db

_MOST = 1e100

PROJECTIONS = 16
"""Of each output of each golden: with 8 goldens an SQNR is right to about half a dB."""


def sketch(outputs: Sequence[Sequence[NDArray[np.generic]]]) -> tuple[float, ...]:
    """Return the projections of the outputs, golden by golden, each to six digits.

    Args:
        outputs: Of each golden, an array of any shape for each output. Integers and truth values are taken
            as numbers.
    """
    found: list[float] = []
    for golden in outputs:
        for place, value in enumerate(golden):
            flat = np.asarray(value, dtype=np.float64).ravel()
            # The legacy generator's stream never changes between versions of numpy.
            signs = np.random.RandomState(place).randint(0, 2, (PROJECTIONS, flat.size)) * 2 - 1
            found += (signs @ flat).tolist()
    return tuple(float(f"{value:.6g}") for value in _bounded(found))


def sketched_sqnr_db(found: Sequence[float], expected: Sequence[float]) -> float:
    """Return the SQNR in dB of what one sketch stands for beside what another does.

    Six digits of each number hide what is above some 110 dB; equal sketches are infinite dB.

    Raises:
        ValueError: They are not of the same outputs.
    """
    mine, theirs = _bounded(found), _bounded(expected)
    if mine.shape != theirs.shape:
        raise ValueError(f"a sketch of {mine.size} numbers is not one of {theirs.size}")
    return sqnr_db(float((theirs**2).sum()), float(((mine - theirs) ** 2).sum()))


def _bounded(projections: Sequence[float]) -> NDArray[np.float64]:
    """Return numbers whose squares are numbers, too: masked logits are infinite."""
    return np.clip(np.nan_to_num(np.asarray(projections, dtype=np.float64)), -_MOST, _MOST)
