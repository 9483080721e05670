"""How much a build may be worse than its baseline, gate by gate."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, with_config

from edgecompile.errors import UsageError
from edgecompile.strict_toml import STRICT, parse

_Positive = Annotated[float, Field(ge=0)]


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Tolerances:
    """What a gate allows; docs/check.md says why these are the defaults.

    Attributes:
        accuracy_drop_points: Top-1, of the float model and of each artifact, in points of a hundred. A larger
            drop fails only if it is significant.
        agreement_drop_points: The same for the top-1 agreement with float.
        sqnr_drop_db: Of each output. A larger drop fails only if it is significant.
        significance: The level of the one-sided paired tests: so often noise alone may fail a gate.
        float_sqnr_db: The least SQNR of the float model's outputs beside the baseline's.
        identical_drop_points: Of output elements that equal the reference's to the bit.
        layer_sqnr_drop_db: Of a layer by itself, on float's own inputs.
        layer_scale_ratio: Between a layer's scale and the baseline's, in either direction.
        clipped_rise_points: Of a layer's or an input's values outside its range.
        size_growth_percent: Of an artifact.
        more_operators: Outside a delegate, of each name, and calls of delegates.
        more_float_operators: Not quantized.
        instructions_growth_percent: Of an inference on the emulated core.
        load_growth_percent: Of loading there.
        memory_growth_percent: Of the process's growth on the host.
        latency_ratio: To the baseline's artifact, measured in turns in the same run.
    """

    accuracy_drop_points: _Positive = 0.5
    agreement_drop_points: _Positive = 1.0
    sqnr_drop_db: _Positive = 1.0
    significance: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    float_sqnr_db: float = 50.0
    identical_drop_points: _Positive = 5.0
    layer_sqnr_drop_db: _Positive = 3.0
    layer_scale_ratio: Annotated[float, Field(ge=1)] = 1.5
    clipped_rise_points: _Positive = 1.0
    size_growth_percent: _Positive = 2.0
    more_operators: Annotated[int, Field(ge=0)] = 0
    more_float_operators: Annotated[int, Field(ge=0)] = 0
    instructions_growth_percent: _Positive = 2.0
    load_growth_percent: _Positive = 5.0
    memory_growth_percent: _Positive = 15.0
    latency_ratio: Annotated[float, Field(ge=1)] = 1.1

    def changed(self) -> dict[str, float]:
        """Return the ones that are not the default's."""
        default = dataclasses.asdict(Tolerances())
        return {key: value for key, value in dataclasses.asdict(self).items() if value != default[key]}


def tolerances(of_baseline: Tolerances, overrides: Mapping[str, Any], origin: str) -> Tolerances:
    """Return the baseline's tolerances with some in place of them.

    Raises:
        UsageError: A key is unknown, or a value is none.
    """
    merged = dataclasses.asdict(of_baseline) | dict(overrides)
    return parse(Tolerances, merged, UsageError, lambda _: origin)
