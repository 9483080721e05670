"""The integer arithmetics that engines document, by name."""

from __future__ import annotations

from typing import Literal

# "exact" rounds the real result once; the others are these libraries' own: the form of additions, and
# of the multiplier that requantizes a convolution.
Arithmetic = Literal["exact", "xnnpack", "qnnpack"]
