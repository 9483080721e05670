"""One setting with its origin: a line of `--plan`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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


def show_value(value: Any) -> str:
    """Return a setting's value as a table shows it: "-" for nothing."""
    if value is None or value in ("", ()):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        value = [f"{key}={item}" for key, item in value.items()]
    return ", ".join(value) if isinstance(value, tuple | list) else str(value)
