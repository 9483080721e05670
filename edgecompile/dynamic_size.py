"""Dynamic sizes: what a user asks for, and what a program's inputs and outputs take and give.

A size is dynamic where an axis of an input may have any length between two bounds. Sizes have names; axes
whose sizes have one name are equally long in every sample.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, with_config

from edgecompile.errors import InvalidDynamicSizeError
from edgecompile.strict_toml import STRICT

if TYPE_CHECKING:
    import torch

BATCH = "batch"
"""The name of the size along which samples lie: every sample that is read is a batch of 1."""
# The largest batch that a program with a dynamic batch dimension accepts.
MAX_BATCH = 1024
FORM = "INPUT:AXIS=NAME:MIN..MAX, or INPUT:AXIS=NAME for a name whose bounds are said elsewhere"
_AXIS = re.compile(r"(\w+):(\d{1,2})")
_SIZE = re.compile(r"([A-Za-z]\w*)(?::(\d{1,9})\.\.(\d{1,9}))?", re.ASCII)


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class DynamicSize:
    """A dynamic size of an input or output.

    Attributes:
        axis: Which axis it is of.
        name: Of an input's size; for an output's, what it is made of: `length`, `height//2`.
        minimum: The least size.
        maximum: The largest size; None where the program has no bound.
    """

    axis: Annotated[int, Field(ge=0)]
    name: str
    minimum: Annotated[int, Field(ge=0)]
    maximum: Annotated[int, Field(ge=0)] | None

    def __str__(self) -> str:
        return f"{self.name} ({self.minimum} to {'any' if self.maximum is None else self.maximum})"

    def admits(self, size: int) -> bool:
        """Tell whether a size is within the bounds."""
        return self.minimum <= size and (self.maximum is None or size <= self.maximum)


@dataclass(frozen=True, kw_only=True)
class WantedSize:
    """A size of an input that shall be dynamic.

    Attributes:
        input: The input's name.
        axis: Which of its axes.
        name: What the size is called; axes with one name are equally long.
        minimum: The least size.
        maximum: The largest size.
    """

    input: str
    axis: int
    name: str
    minimum: int
    maximum: int

    def __str__(self) -> str:
        return f"{self.input}:{self.axis}={self.name}:{self.minimum}..{self.maximum}"


def parse_dynamic(said: Mapping[str, object], where: str) -> tuple[WantedSize, ...]:
    """Return the sizes that a user asks for.

    Args:
        said: By `INPUT:AXIS`, `NAME:MIN..MAX`; `NAME` alone where another one says the bounds.
        where: What said so.

    Raises:
        InvalidDynamicSizeError: An entry has another form, or bounds contradict each other or are missing.
    """
    rows: list[tuple[str, int, str]] = []
    bounds: dict[str, tuple[int, int]] = {}
    for key, value in said.items():
        place, size = _AXIS.fullmatch(key), _SIZE.fullmatch(str(value))
        own = f"{where}: {key}={value}"
        if place is None or size is None:
            raise InvalidDynamicSizeError(
                "a dynamic size is not understood",
                where=own,
                expected=FORM,
                hint="e.g. tokens:1=length:1..128",
            )
        rows.append((place[1], int(place[2]), size[1]))
        if size[2] is None:
            continue
        given = int(size[2]), int(size[3])
        if not 1 <= given[0] < given[1]:
            raise InvalidDynamicSizeError(
                f"the dynamic size {size[1]!r} goes from {given[0]} to {given[1]}",
                where=own,
                expected="a least size of 1 or more, and a largest above it",
            )
        if bounds.setdefault(size[1], given) != given:
            raise InvalidDynamicSizeError(
                f"the dynamic size {size[1]!r} has two pairs of bounds",
                where=own,
                found="{}..{} and {}..{}".format(*bounds[size[1]], *given),
                hint="say the bounds once, or use two names for sizes that may differ",
            )
    for input_name, axis, name in rows:
        if name not in bounds:
            raise InvalidDynamicSizeError(
                f"the dynamic size {name!r} has no bounds",
                where=f"{where}: {input_name}:{axis}={name}",
                expected=FORM,
                known=", ".join(bounds) or None,
            )
    return tuple(
        WantedSize(input=input_name, axis=axis, name=name, minimum=bounds[name][0], maximum=bounds[name][1])
        for input_name, axis, name in rows
    )


def sizes_that_differ(
    shapes: Iterable[Sequence[int]], dynamic: Iterable[Sequence[DynamicSize]]
) -> tuple[str, list[int]] | None:
    """Return a name that axes of one sample share though they are not equally long, and their lengths."""
    found: dict[str, list[int]] = {}
    for shape, sizes in zip(shapes, dynamic, strict=True):
        for size in sizes:
            found.setdefault(size.name, []).append(shape[size.axis])
    return next(((name, lengths) for name, lengths in found.items() if len(set(lengths)) > 1), None)


def shape_text(shape: Sequence[int | None], dynamic: Sequence[DynamicSize] = ()) -> str:
    """Return a shape for a reader: `[1, length (1 to 128), 3]`; `any` for a size without a name."""
    named = {size.axis: str(size) for size in dynamic}
    fixed = ("any" if size is None else str(size) for size in shape)
    return f"[{', '.join(named.get(axis, text) for axis, text in enumerate(fixed))}]"


def signature_of_shapes(tensors: Iterable[torch.Tensor]) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of one sample's tensors: what samples of several sizes are told apart by."""
    return tuple(tuple(tensor.shape) for tensor in tensors)
