"""The dynamic sizes of a bundle, as `edgecompile inspect` tells them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
        axes: Where it is, as `INPUT:AXIS`.
    """

    name: str
    minimum: int
    maximum: int | None
    axes: tuple[str, ...]


def named_sizes(manifest: Manifest) -> Iterator[NamedSize]:
    """Yield the dynamic sizes, each once, with all axes that have it."""
    axes: dict[tuple[str, int, int | None], list[str]] = {}
    for entry in (*manifest.inputs, *manifest.outputs):
        for size in entry.dynamic:
            axes.setdefault((size.name, size.minimum, size.maximum), []).append(f"{entry.name}:{size.axis}")
    for (name, minimum, maximum), places in axes.items():
        yield NamedSize(name=name, minimum=minimum, maximum=maximum, axes=tuple(places))


def sizes_text(sizes: Sequence[NamedSize]) -> str:
    """Return one line for each size."""
    rows = ["dynamic sizes"]
    for size in sizes:
        most = "any" if size.maximum is None else size.maximum
        # A manifest comes from anywhere: its names must not steer the terminal.
        rows.append(printable(f"  {size.name}: {size.minimum} to {most} ({', '.join(size.axes)})"))
    return "\n".join(rows) + "\n"
