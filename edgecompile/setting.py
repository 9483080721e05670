"""One setting with its origin: a line of `--plan`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Value = str | bool | int | float | tuple[str, ...] | Mapping[str, float] | None


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a setting was resolved to, and what said so.

    Attributes:
        name: As on the command line ("dynamic-batch"), or a target's dotted key
            ("quantization.weight_bits"), in a plan with the target's name before it.
        origin: "default", "argument", "flag --precision", "config FILE" or "target FILE".
    """

    name: str
    value: Value
    origin: str
