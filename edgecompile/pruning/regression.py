"""Ridge regression of what rows of numbers should give, towards the weights that they had."""

from __future__ import annotations

import torch

# What may pull the weights back, as shares of the mean square of what they meet: held-out rows choose.
_DAMPINGS = (1e-3, 1e-2, 1e-1, 1.0)
_WITHOUT_HELD_OUT = 1e-2


class RowMoments:
    """Moments of what rows are multiplied with, and of what they should give, from near their means.

    Attributes:
        centred: Whether a bias makes up for the means.
        count: Of positions.
        near: About the mean of what is read, (groups, length), and of what is wanted, (groups, outputs).
    """

    def __init__(self, read: torch.Tensor, wanted: torch.Tensor, *, centred: bool) -> None:
        """Begin without any position.

        Args:
            read: Some positions, (positions, groups, length).
            wanted: The same, (positions, groups, outputs).
            centred: As the attribute.
        """
        self.centred, self.count = centred, 0
        near = (value.mean(0) if centred else torch.zeros_like(value[0]) for value in (read, wanted))
        self.near = tuple(near)
        self.read, self.wanted = (torch.zeros_like(value, dtype=torch.float64) for value in self.near)
        (groups, length), outputs = self.read.shape, self.wanted.shape[1]
        self.within = torch.zeros(groups, length, length, dtype=torch.float64)
        self.across = torch.zeros(groups, length, outputs, dtype=torch.float64)

    def add(self, read: torch.Tensor, wanted: torch.Tensor) -> None:
        """Take positions into account: (positions, groups, length) and (positions, groups, outputs)."""
        read, wanted = read - self.near[0], wanted - self.near[1]  # large means would leave no digits
        self.count += len(read)
        self.read += read.sum(0)
        self.wanted += wanted.sum(0)
        columns = read.permute(1, 2, 0)  # (groups, length, positions)
        self.within += columns @ read.transpose(0, 1)
        self.across += columns @ wanted.transpose(0, 1)

    def join(self, other: RowMoments) -> None:
        """Take into account what another one did."""
        for name in ("count", "read", "wanted", "within", "across"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def second(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the second moments, (groups, length, length) and (groups, length, outputs)."""
        within, across = self.within / self.count, self.across / self.count
        if not self.centred:
            return within, across
        mean, wanted = self.read / self.count, self.wanted / self.count
        return within - mean[:, :, None] * mean[:, None, :], across - mean[:, :, None] * wanted[:, None, :]

    def means(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what is read and wanted on average, (groups, length) and (groups, outputs)."""
        return self.near[0] + self.read / self.count, self.near[1] + self.wanted / self.count


def regressed(start: torch.Tensor, seen: RowMoments, held: RowMoments) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows that give what is wanted, and what they miss on average.

    Args:
        start: The rows before, (groups, outputs, length).
        seen: What they are fitted to; `held` is added.
        held: Chooses how far the rows are pulled back to those before; may be without positions.

    Returns:
        (groups, outputs, length) and (groups, outputs), float64; not finite where a value is not.
    """
    damping = _WITHOUT_HELD_OUT
    if held.count:
        damping = min(_DAMPINGS, key=lambda share: _error(_ridge(start, seen, share), held))
        seen.join(held)
    rows = _ridge(start, seen, damping)
    read, wanted = seen.means()
    return rows, wanted - torch.einsum("grl,gl->gr", rows, read)


def _ridge(start: torch.Tensor, moments: RowMoments, damping: float) -> torch.Tensor:
    """Return the rows with the least squared error, pulled towards where they start."""
    within, across = moments.second()
    rows = start.double()
    pull = damping * within.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-12)
    damped = within + pull[:, None, None] * torch.eye(within.shape[1], dtype=torch.float64)
    missing = across - within @ rows.transpose(1, 2)
    factor, _ = torch.linalg.cholesky_ex(damped)  # fails where a value is not finite
    return rows + torch.cholesky_solve(missing, factor).transpose(1, 2)


def _error(rows: torch.Tensor, moments: RowMoments) -> float:
    """Return the squared error of rows, but for what is the same for all."""
    within, across = moments.second()
    return float(((rows @ within) * rows).sum() - 2 * (rows.transpose(1, 2) * across).sum())
