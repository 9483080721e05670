"""Errors of a row's weights that the other weights of the row take up.

What changes a weight changes its row's output by that times what the weight is multiplied with; the weights
that come after it can be changed so that the output changes least (Hassibi & Stork 1993, "Optimal Brain
Surgeon"; all rows with one factor as in Frantar et al. 2023, "GPTQ", arXiv:2210.17323).
"""

from __future__ import annotations

from collections.abc import Callable

import torch

# Of the mean square of an input: what keeps inputs that the samples hardly use from being trusted.
_DAMPING = 0.01
# Columns of a weight that are settled before the others take up their errors.
_BLOCK = 128

Settle = Callable[[int, torch.Tensor], torch.Tensor]
"""Gives what a column becomes, (groups, rows), from its index and what is wanted of it."""


def compensated(weight: torch.Tensor, second: torch.Tensor, settle: Settle) -> torch.Tensor:
    """Settle the columns of a weight one by one, each row so that its outputs change least.

    Args:
        weight: The real weight by groups, (groups, rows, columns).
        second: The second moments of what the columns are multiplied with, (groups, columns, columns).
        settle: What a column may become: rounded, or without some of its weights.

    Returns:
        What the columns have become, float32, (groups, rows, columns).
    """
    power = second.double().diagonal(dim1=1, dim2=2)
    damping = _DAMPING * power.mean(1) + 1e-12
    damped = second.double() + damping[:, None, None] * torch.eye(second.shape[1], dtype=torch.float64)
    # What matters most is settled first, while there is most left to take up its error.
    order = power.mean(0).argsort(descending=True)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped[:, order][:, :, order]))
    factor = torch.linalg.cholesky(inverse, upper=True).float()
    real = weight[:, :, order].float().clone()
    settled = torch.empty_like(real)
    columns = order.tolist()
    for start in range(0, real.shape[2], _BLOCK):
        block = slice(start, start + _BLOCK)
        own, own_factor = real[:, :, block], factor[:, block, block]
        errors = torch.empty_like(own)
        for column in range(own.shape[2]):
            wanted = own[:, :, column]
            found = settle(columns[start + column], wanted)
            settled[:, :, start + column] = found
            error = (wanted - found) / own_factor[:, column, column, None]
            own[:, :, column + 1 :] -= error[:, :, None] * own_factor[:, None, column, column + 1 :]
            errors[:, :, column] = error
        real[:, :, start + _BLOCK :] -= errors @ factor[:, block, start + _BLOCK :]
    return settled[:, :, order.argsort()]
