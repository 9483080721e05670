"""Rows of a weight that give what is wanted, by ridge regression on what they are multiplied with."""

from __future__ import annotations

import torch

# What may pull the weights back to those that stayed,
# as shares of the mean square of what they meet: held-out samples choose for each layer.
_DAMPINGS = (1e-3, 1e-2, 1e-1, 1.0)


class RowMoments:
    """Moments of what rows are multiplied with, (positions, groups, length), and of what they should give."""

    def __init__(self, groups: int, outputs: int, length: int) -> None:
        self.count = 0
        self.read = torch.zeros(groups, length, dtype=torch.float64)
        self.wanted = torch.zeros(groups, outputs, dtype=torch.float64)
        self.within = torch.zeros(groups, length, length, dtype=torch.float64)
        self.across = torch.zeros(groups, length, outputs, dtype=torch.float64)

    def add(self, read: torch.Tensor, wanted: torch.Tensor) -> None:
        """Take positions into account: (positions, groups, length) and (positions, groups, outputs)."""
        self.count += len(read)
        # What a mean over positions gives hardly varies: in float32 its covariance would not be positive.
        read, wanted = read.double(), wanted.double()
        self.read += read.sum(0)
        self.wanted += wanted.sum(0)
        columns = read.permute(1, 2, 0)  # (groups, length, positions)
        self.within += columns @ read.transpose(0, 1)
        self.across += columns @ wanted.transpose(0, 1)

    def joined(self, other: RowMoments) -> RowMoments:
        """Return the moments of both."""
        result = RowMoments(len(self.read), self.wanted.shape[1], self.read.shape[1])
        for name in ("count", "read", "wanted", "within", "across"):
            setattr(result, name, getattr(self, name) + getattr(other, name))
        return result

    def centred(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the covariances, (groups, length, length) and (groups, length, outputs)."""
        mean, wanted = self.read / self.count, self.wanted / self.count
        within = self.within / self.count - mean[:, :, None] * mean[:, None, :]
        return within, self.across / self.count - mean[:, :, None] * wanted[:, None, :]


def regressed(start: torch.Tensor, seen: RowMoments, held: RowMoments) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows, (groups, outputs, length), and the bias, (groups * outputs,), that give what is wanted."""
    everything = seen.joined(held)
    damping = (
        min(_DAMPINGS, key=lambda share: _error(_ridge(start, seen, share), held)) if held.count else 1e-2
    )
    rows = _ridge(start, everything, damping)
    shift = everything.wanted - torch.einsum("grl,gl->gr", rows, everything.read)
    return rows.to(start.dtype), (shift / everything.count).flatten().to(start.dtype)


def _ridge(start: torch.Tensor, moments: RowMoments, damping: float) -> torch.Tensor:
    """Return the rows with the least squared error, pulled towards where they start."""
    within, across = moments.centred()
    rows = start.double()
    pull = damping * within.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-12)
    damped = within + pull[:, None, None] * torch.eye(within.shape[1], dtype=torch.float64)
    missing = across - within @ rows.transpose(1, 2)
    return rows + torch.cholesky_solve(missing, torch.linalg.cholesky(damped)).transpose(1, 2)


def _error(rows: torch.Tensor, moments: RowMoments) -> float:
    """Return the squared error of rows, but for what is the same for all."""
    within, across = moments.centred()
    return float(((rows @ within) * rows).sum() - 2 * (rows.transpose(1, 2) * across).sum())
