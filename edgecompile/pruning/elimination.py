"""Units of a group eliminated one after another, each time those that the others make up for best.

With the covariance A of what a layer reads, removing columns c of its weight W and solving for the others
leaves an error of `W_c inv(inv(A)_cc) W_c'` in its outputs, and changes the others by
`-W_c inv(inv(A)_cc) inv(A)_c` (Hassibi & Stork 1993, "Optimal Brain Surgeon"). What is removed next sees that
change, so that of two equal channels one is free and the other is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

# Of the mean square of what a weight meets: what keeps the inverse finite.
_DAMPING = 1e-2
# A group is gone through in so many rounds.
_ROUNDS = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class Columns:
    """The columns of a layer's weight that read units of a group.

    Attributes:
        rows: The weight, each row scaled by how much its output matters, (outputs, length), float64.
        covariance: Of what the columns meet, (length, length), float64.
        of_unit: The columns of each unit of the group, (units, most columns of a unit), and -1 after the last
            where a unit has fewer, or none.
    """

    rows: torch.Tensor
    covariance: torch.Tensor
    of_unit: torch.Tensor


def eliminate(count: int, readers: Sequence[Columns]) -> torch.Tensor:
    """Return what the removal of each unit adds to the error of the layers after it, (units,), float64.

    Args:
        count: How many units the group has.
        readers: The layers that read them.
    """
    layers = [_Layer(reader) for reader in readers]
    left = torch.arange(count)
    found = torch.zeros(count, dtype=torch.float64)
    least = 0.0
    while len(left):
        errors = torch.stack([layer.errors(left) for layer in layers]).sum(0)
        now = errors.argsort(stable=True)[: max(1, count // _ROUNDS)]
        least = max(least, float(errors[now].max()))  # what goes later is never cheaper
        found[left[now]] = errors[now].clamp_min(least)
        for layer in layers:
            layer.remove(left[now])
        stays = torch.ones(len(left), dtype=torch.bool)
        stays[now] = False
        left = left[stays]
    return found


class _Layer:
    def __init__(self, columns: Columns) -> None:
        power = columns.covariance.diagonal().mean().clamp_min(1e-12)
        damped = columns.covariance + _DAMPING * power * torch.eye(
            len(columns.covariance), dtype=torch.float64
        )
        self._inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
        self._rows = columns.rows.clone()
        self._of_unit = columns.of_unit.clone()

    def errors(self, units: torch.Tensor) -> torch.Tensor:
        """Return what removing each unit adds to the squared error, (units,)."""
        found = torch.zeros(len(units), dtype=torch.float64)
        columns = self._of_unit[units]
        counts = (columns >= 0).sum(1)
        for count in sorted(set(counts.tolist())):
            if not count:
                continue
            own = columns[counts == count, :count]  # (units, columns)
            within = self._inverse[own[:, :, None], own[:, None, :]]
            rows = self._rows[:, own].permute(1, 2, 0)  # (units, columns, outputs)
            found[counts == count] = (rows * torch.linalg.solve(within, rows)).sum((1, 2))
        return found

    def remove(self, units: torch.Tensor) -> None:
        """Remove units, and let the other columns make up for them."""
        own = self._of_unit[units].flatten()
        own = own[own >= 0]
        if not len(own):
            return
        cross = torch.linalg.solve(self._inverse[own][:, own], self._inverse[own])  # (own, length)
        self._rows -= self._rows[:, own] @ cross
        self._inverse -= self._inverse[:, own] @ cross
        stays = torch.ones(len(self._inverse), dtype=torch.bool)
        stays[own] = False
        self._rows, self._inverse = self._rows[:, stays], self._inverse[stays][:, stays]
        places = (stays.cumsum(0) - 1)[self._of_unit]  # of those that are gone never asked again
        self._of_unit = torch.where(self._of_unit < 0, -1, places)
