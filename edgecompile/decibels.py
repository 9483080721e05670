"""Signal to quantization noise ratios in dB: computed, stored, and shown."""

from __future__ import annotations

import math

LOWEST_SQNR_DB = -100.0
"""Stands for all that is lower: errors where every float value is zero, or values that are no numbers."""

EXACT_DB = 200.0
"""Stands for no error at all where a number is needed: more than any float arithmetic has."""


def sqnr_db(signal: float, noise: float) -> float:
    """Return the ratio of two energies in dB; outputs that are no numbers count as no signal at all."""
    if not (math.isfinite(noise) and math.isfinite(signal)):
        return -math.inf
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def stored_sqnr_db(signal: float, noise: float) -> float | None:
    """Return the ratio as a report holds it: None where there is no error, and never infinite."""
    return storable(sqnr_db(signal, noise))


def storable(ratio_db: float) -> float | None:
    """Return a ratio as a report holds it."""
    return None if ratio_db == math.inf else max(ratio_db, LOWEST_SQNR_DB)


def decibels(stored: float | None) -> float:
    """Return a stored ratio as a number: `EXACT_DB` where there is no error."""
    return EXACT_DB if stored is None else stored


def relative_noise(stored: float | None) -> float:
    """Return the noise of a stored ratio, as a share of the signal's energy."""
    return 0.0 if stored is None else 10 ** (-stored / 10)


def sqnr_text(stored: float | None) -> str:
    """Return what a table shows of a stored ratio."""
    return "exact" if stored is None else f"{stored:.1f}"
