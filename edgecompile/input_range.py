"""The range that calibration gave an input of the model, beside the data that the quality is measured on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgecompile.artifact import TensorEntry
from edgecompile.dataset import Sample


@dataclass(frozen=True, kw_only=True)
class InputRange:
    """How much of some data a quantized input cannot represent.

    Attributes:
        name: The input's.
        low, high: The calibrated range: the real values of the least and the greatest int8.
        seen_low, seen_high: The extremes of the data.
        outside: The share of the data's elements, 0 to 1, that are clipped: more than half a step outside.
    """

    name: str
    low: float
    high: float
    seen_low: float
    seen_high: float
    outside: float


def input_ranges(entries: Sequence[TensorEntry], samples: Sequence[Sample]) -> Iterator[InputRange]:
    """Yield a row for each input that is quantized.

    Args:
        entries: The model's inputs.
        samples: At least one; each holds the inputs in the same order.
    """
    for position, entry in enumerate(entries):
        if entry.scale is None or entry.zero_point is None:
            continue
        low, high = ((limit - entry.zero_point) * entry.scale for limit in (-128, 127))
        least, greatest = low - entry.scale / 2, high + entry.scale / 2
        values = [sample.inputs[position] for sample in samples]
        extremes = [value.aminmax() for value in values if value.numel()]
        clipped = sum(int(((value < least) | (value > greatest)).sum()) for value in values)
        yield InputRange(
            name=entry.name,
            low=low,
            high=high,
            seen_low=min((float(pair.min) for pair in extremes), default=0.0),
            seen_high=max((float(pair.max) for pair in extremes), default=0.0),
            outside=clipped / max(sum(value.numel() for value in values), 1),
        )
