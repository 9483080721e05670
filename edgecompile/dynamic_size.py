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
FORM = "INPUT:AXIS=NAME:MIN..MAX[:STEP], or INPUT:AXIS=NAME for a name whose bounds are said elsewhere"
_AXIS = re.compile(r"(\w+):(\d{1,2})")
_SIZE = re.compile(r"([A-Za-z]\w*)(?::(\d{1,9})\.\.(\d{1,9})(?::(\d{1,9}))?)?", re.ASCII)


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class DynamicSize:
    """A dynamic size of an input or output.

    Attributes:
        axis: Which axis it is of.
        name: Of an input's size; for an output's, what it is made of: `length`, `height//2`.
        minimum: The least size.
        maximum: The largest size; None where the program has no bound.
        step: What every size is a multiple of.
    """

    axis: Annotated[int, Field(ge=0)]
    name: str
    minimum: Annotated[int, Field(ge=0)]
    maximum: Annotated[int, Field(ge=0)] | None
    step: Annotated[int, Field(ge=1)] = 1

    def __str__(self) -> str:
        return f"{self.name} ({self.bounds})"

    @property
    def bounds(self) -> str:
        """The bounds for a reader."""
        return bounds_text(self.minimum, self.maximum, self.step)

    def admits(self, size: int) -> bool:
        """Tell whether it may be so long."""
        within = self.minimum <= size and (self.maximum is None or size <= self.maximum)
        return within and size % self.step == 0

    def as_json(self) -> dict[str, int | str | None]:
        """Return it as JSON's types, without a step of 1: as it was before there were steps."""
        said: dict[str, int | str | None] = {
            "axis": self.axis,
            "name": self.name,
            "minimum": self.minimum,
            "maximum": self.maximum,
        }
        return said | ({"step": self.step} if self.step > 1 else {})


@dataclass(frozen=True, kw_only=True)
class WantedSize(DynamicSize):
    """A size that shall be dynamic; axes with one name are equally long.

    Attributes:
        input: The name of the input that it is of.
    """

    input: str

    def __str__(self) -> str:
        step = f":{self.step}" if self.step > 1 else ""
        return f"{self.input}:{self.axis}={self.name}:{self.minimum}..{self.maximum}{step}"


def parse_dynamic(said: Mapping[str, object], where: str) -> tuple[WantedSize, ...]:
    """Return the sizes that a user asks for.

    Args:
        said: By `INPUT:AXIS`, `NAME:MIN..MAX[:STEP]`; `NAME` alone where another one says the bounds.
        where: What said so.

    Raises:
        InvalidDynamicSizeError: An entry has another form, or bounds contradict each other or are missing.
    """
    rows: list[tuple[str, int, str]] = []
    bounds: dict[str, tuple[int, int, int]] = {}
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
        given = least, most, step = int(size[2]), int(size[3]), int(size[4] or 1)
        if not 1 <= least < most:
            raise InvalidDynamicSizeError(
                f"the dynamic size {size[1]!r} goes from {least} to {most}",
                where=own,
                expected="a least size of 1 or more, and a largest above it",
            )
        if step < 1 or least % step or most % step:
            raise InvalidDynamicSizeError(
                f"the bounds of the dynamic size {size[1]!r} are no multiples of its step",
                where=own,
                expected="a step that divides both bounds",
                found=f"{least} and {most} in steps of {step}",
            )
        if bounds.setdefault(size[1], given) != given:
            raise InvalidDynamicSizeError(
                f"the dynamic size {size[1]!r} has two pairs of bounds",
                where=own,
                found="{}..{}:{} and {}..{}:{}".format(*bounds[size[1]], *given),
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
        WantedSize(input=input_name, axis=axis, name=name, minimum=least, maximum=most, step=step)
        for input_name, axis, name in rows
        for least, most, step in [bounds[name]]
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


def bounds_text(minimum: int, maximum: int | None, step: int) -> str:
    """Return bounds for a reader: `64 to 512 in steps of 32`; `any` without a largest size."""
    steps = f" in steps of {step}" if step > 1 else ""
    return f"{minimum} to {'any' if maximum is None else maximum}{steps}"


def shape_text(shape: Sequence[int | None], dynamic: Sequence[DynamicSize] = ()) -> str:
    """Return a shape for a reader: `[1, length (1 to 128), 3]`; `any` for a size without a name."""
    named = {size.axis: str(size) for size in dynamic}
    fixed = ("any" if size is None else str(size) for size in shape)
    return f"[{', '.join(named.get(axis, text) for axis, text in enumerate(fixed))}]"


def signature_of_shapes(tensors: Iterable[torch.Tensor]) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of one sample's tensors: what samples of several sizes are told apart by."""
    return tuple(tuple(tensor.shape) for tensor in tensors)
