"""The dynamic sizes of a bundle, as `edgecompile inspect` tells them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgecompile.dynamic_size import bounds_text
from edgecompile.printable import printable

if TYPE_CHECKING:
    from edgecompile.artifact import Manifest


@dataclass(frozen=True, kw_only=True)
class NamedSize:
    """A dynamic size.

    Attributes:
        name: What it is called; for an output, what it is made of.
        minimum: The least size.
        maximum: The largest; None without a bound.
        step: What every size is a multiple of.
        axes: Where it is, as `INPUT:AXIS`.
    """

    name: str
    minimum: int
    maximum: int | None
    step: int
    axes: tuple[str, ...]


def named_sizes(manifest: Manifest) -> Iterator[NamedSize]:
    """Yield the dynamic sizes, each once, with all axes that have it."""
    axes: dict[tuple[str, int, int | None, int], list[str]] = {}
    for entry in (*manifest.inputs, *manifest.outputs):
        for size in entry.dynamic:
            known = (size.name, size.minimum, size.maximum, size.step)
            axes.setdefault(known, []).append(f"{entry.name}:{size.axis}")
    for (name, minimum, maximum, step), places in axes.items():
        yield NamedSize(name=name, minimum=minimum, maximum=maximum, step=step, axes=tuple(places))


def sizes_text(sizes: Sequence[NamedSize]) -> str:
    """Return one line for each size."""
    rows = ["dynamic sizes"]
    for size in sizes:
        bounds = bounds_text(size.minimum, size.maximum, size.step)
        # A manifest comes from anywhere: its names must not steer the terminal.
        rows.append(printable(f"  {size.name}: {bounds} ({', '.join(size.axes)})"))
    return "\n".join(rows) + "\n"
