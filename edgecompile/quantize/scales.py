"""How an observer's range becomes a scale and a zero point."""

from __future__ import annotations

from typing import Any

import torch

# Below this scale a value is constant zero for all that int8 can tell (XNNPACK's own bound). A weight's could
# be less, if its bias did not have to fit an int32 with a scale that is a product with it.
LEAST_SCALE = 2**-12


class Scales:
    """Mixed into torchao's observers: what a target's scheme says of scales, beyond torchao's own.

    Attributes:
        power_of_two: Whether a scale is rounded up to a power of two, so that hardware can shift instead of
            multiply; the range grows to as much as twice its size.
    """

    qscheme: torch.qscheme
    quant_min: int
    quant_max: int

    def __init__(self, *, power_of_two: bool = False, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.power_of_two = power_of_two

    @property
    def symmetric(self) -> bool:
        """Whether the zero point is 0."""
        return self.qscheme in (torch.per_tensor_symmetric, torch.per_channel_symmetric)

    def _calculate_qparams(
        self, min_val: torch.Tensor, max_val: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return scale and zero point of ranges, (K,) each."""
        scale, zero_point = super()._calculate_qparams(min_val, max_val)  # type: ignore[misc]
        if not self.power_of_two:
            return scale, zero_point
        scale = power_of_two_above(scale)
        if not self.symmetric:
            steps = torch.round(min_val.clamp(max=0) / scale).to(zero_point.dtype)
            zero_point = (self.quant_min - steps).clamp(self.quant_min, self.quant_max)
        return scale, zero_point


def power_of_two_above(values: torch.Tensor) -> torch.Tensor:
    """Return the least powers of two that are not less than positive values, exactly."""
    fraction, exponent = torch.frexp(values)  # 0.5 <= fraction < 1
    return torch.ldexp(torch.ones_like(values), exponent - (fraction == 0.5).to(exponent.dtype))
