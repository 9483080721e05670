"""What measures the range of a weight: once, for it does not change."""

from __future__ import annotations

from typing import Any

import torch
from torchao.quantization.pt2e.observer import MinMaxObserver, PerChannelMinMaxObserver

from edgecompile.quantize.scales import Scales

_SHARES = torch.linspace(1, 0.2, 81)  # of the largest absolute value that are tried
# So many weights at a time stay in a core's cache while all scales are tried on them.
_CHUNK = 1 << 16


class WeightObserver(Scales):
    """Mixed into torchao's observers of extremes: measures a weight when it is seen first.

    Attributes:
        least_squares: Whether the range is then narrowed to what gives the least squared rounding error.
    """

    min_val: torch.Tensor
    max_val: torch.Tensor

    def __init__(self, *, least_squares: bool = False, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.least_squares = least_squares
        self._is_measured = False

    def forward(self, x_orig: torch.Tensor) -> torch.Tensor:
        """Measure a weight, output channels first; returns it as it is."""
        if self._is_measured:
            return x_orig
        self._is_measured = True
        super().forward(x_orig)  # type: ignore[misc]
        if self.least_squares and x_orig.numel():
            weight = x_orig.detach().reshape(self.min_val.numel(), -1)  # (K, n), or (1, n) with one scale
            scales = [self._calculate_qparams(self.min_val * s, self.max_val * s)[0] for s in _SHARES]
            share = _SHARES[least_squares(weight, torch.stack(scales), self.quant_max)]
            share = share.reshape(self.min_val.shape)
            self.min_val, self.max_val = self.min_val * share, self.max_val * share
        return x_orig


class WeightRange(WeightObserver, MinMaxObserver):  # type: ignore[misc]  # torchao is not typed
    """The range of a weight with one scale."""


class WeightChannelRanges(WeightObserver, PerChannelMinMaxObserver):  # type: ignore[misc]
    """The ranges of a weight with a scale for each output channel."""


def least_squares(weight: torch.Tensor, scales: torch.Tensor, limit: int) -> torch.Tensor:
    """Return which of several scales rounds each channel with the least squared error, (K,) indices.

    Args:
        weight: (K, n).
        scales: (S, K), the candidates.
        limit: The largest absolute integer.
    """
    channels = max(1, _CHUNK // weight.shape[1])
    chosen = []
    parts = zip(torch.split(weight, channels), torch.split(scales, channels, dim=1), strict=True)
    for rows, candidates in parts:
        errors = [_squared_error(rows, scale, limit) for scale in candidates.unbind(0)]
        chosen.append(torch.stack(errors).argmin(0))
    return torch.cat(chosen)


def _squared_error(rows: torch.Tensor, scale: torch.Tensor, limit: int) -> torch.Tensor:
    column = scale[:, None]
    rounded = (rows / column).round_().clamp_(-limit, limit).mul_(column)
    return rounded.sub_(rows).square_().sum(1)
