"""The integer arithmetics that engines document, by name."""

from __future__ import annotations

from typing import Literal

# "exact" rounds the real result once; "xnnpack" is its fixed-point form of additions.
Arithmetic = Literal["exact", "xnnpack"]
