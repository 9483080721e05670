"""Which slices of a value go together: a label for each index along some of its axes.

A value of shape (N, C, H, W) whose channels can be removed one by one has labels of shape (C,) on axis 1. A
view that splits the channels into heads, (N, T, heads, width), has labels of shape (heads, width) on axes 2
and 3: what is removed must then be whole rows or whole columns of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.fx.experimental.symbolic_shapes import statically_known_true

Size = int | torch.SymInt


@dataclass(frozen=True, kw_only=True, eq=False)
class Labels:
    """Labels of a value.

    Attributes:
        axes: Of the value, ascending; at least one.
        ids: int64, as many axes as those, each as long as the value's.
    """

    axes: tuple[int, ...]
    ids: torch.Tensor

    def on(self, axis: int) -> bool:
        """Tell whether an axis has labels."""
        return axis in self.axes

    def sizes(self) -> dict[int, int]:
        """Return the length of each labelled axis."""
        return dict(zip(self.axes, self.ids.shape, strict=True))

    def moved(self, axis_of: dict[int, int]) -> Labels:
        """Return the labels where each axis is another one, (old: new)."""
        axes = [axis_of[axis] for axis in self.axes]
        order = sorted(range(len(axes)), key=axes.__getitem__)
        return Labels(axes=tuple(sorted(axes)), ids=self.ids.permute(order))

    def kept(self, keep: torch.Tensor) -> dict[int, torch.Tensor]:
        """Return for each axis the indices that stay.

        Args:
            keep: Of each label, whether it stays, (labels,), bool. What stays must be whole rows and columns.
                Or how often it is wanted, int; along more than one axis that is 0 or 1.
        """
        stays = keep[self.ids]
        if len(self.axes) == 1:
            return {self.axes[0]: torch.arange(len(stays)).repeat_interleave(stays.long())}
        found = {}
        for place, axis in enumerate(self.axes):
            others = [other for other in range(stays.dim()) if other != place]
            found[axis] = (stays.any(dim=others) if others else stays).nonzero().flatten()
        whole = math.prod(len(indices) for indices in found.values())
        if whole != int(stays.sum()):
            raise AssertionError(f"axes {self.axes}: what stays is no block")
        return found


def simplified(labels: Labels) -> Labels:
    """Return the labels without axes along which nothing changes; one axis stays."""
    axes, ids = list(labels.axes), labels.ids
    for place in reversed(range(len(axes))):
        if len(axes) > 1 and bool((ids == ids.narrow(place, 0, 1)).all()):
            ids = ids.select(place, 0)
            del axes[place]
    return Labels(axes=tuple(axes), ids=ids)


def reshaped(labels: Labels, before: Sequence[Size], after: Sequence[Size]) -> Labels | None:
    """Return the labels of a value that is viewed in another shape.

    None where its sizes do not tell, or where the axis of a single channel is dropped.
    """
    axes: list[int] = []
    full: list[int] = []  # the labelled blocks' axes before
    shape: list[int] = []  # and their sizes after
    for old, new in _blocks(before, after):
        if not any(axis in labels.axes for axis in old):
            continue
        sizes = [after[axis] for axis in new]
        if not all(isinstance(size, int) for size in (*sizes, *(before[axis] for axis in old))):
            return None
        full += old
        axes += new
        shape += [int(size) for size in sizes]
    if not axes:
        return None
    ids = expanded(labels, full, [int(before[axis]) for axis in full])
    return simplified(Labels(axes=tuple(axes), ids=ids.reshape(shape)))


def expanded(labels: Labels, axes: Sequence[int], sizes: Sequence[int]) -> torch.Tensor:
    """Return the labels along more axes, ascending, which include theirs."""
    shape = [size if axis in labels.axes else 1 for axis, size in zip(axes, sizes, strict=True)]
    return labels.ids.reshape(shape).expand(*sizes)


def _blocks(before: Sequence[Size], after: Sequence[Size]) -> list[tuple[list[int], list[int]]]:
    """Return which axes become which in a view: the smallest runs of axes of the same number of elements."""
    first = 0
    while first < min(len(before), len(after)) and _equal(before[first], after[first]):
        first += 1
    last = 0
    while last < min(len(before), len(after)) - first and _equal(before[-1 - last], after[-1 - last]):
        last += 1
    old, new = list(range(first, len(before) - last)), list(range(first, len(after) - last))
    blocks = [([axis], [axis]) for axis in range(first)]
    middle = [*(before[axis] for axis in old), *(after[axis] for axis in new)]
    if all(isinstance(size, int) for size in middle):
        blocks += _runs(before, after, old, new)
    elif old or new:
        blocks.append((old, new))
    tails = range(last, 0, -1)
    return blocks + [([len(before) - tail], [len(after) - tail]) for tail in tails]


def _runs(
    before: Sequence[Size], after: Sequence[Size], old: list[int], new: list[int]
) -> list[tuple[list[int], list[int]]]:
    """Return the runs of axes of static sizes."""
    found: list[tuple[list[int], list[int]]] = []
    while old or new:
        left, right = ([old.pop(0)] if old else []), ([new.pop(0)] if new else [])
        while (one := math.prod(before[axis] for axis in left)) != (
            other := math.prod(after[axis] for axis in right)
        ):
            (left.append(old.pop(0)) if one < other else right.append(new.pop(0)))
        if found and (not left or not right):  # axes of length 1 at the end
            found[-1][0].extend(left)
            found[-1][1].extend(right)
        else:
            found.append((left, right))
    return found


def _equal(one: Size, other: Size) -> bool:
    return bool(statically_known_true(one == other))
