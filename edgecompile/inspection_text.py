"""An inspected artifact as text for a terminal."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from edgecompile.printable import printable
from edgecompile.readers.contents import ArtifactContents, LayerInfo, TensorInfo
from edgecompile.text_table import WIDTH, plain_console

LONGEST_TEXT = 2000
NUMBERS = frozenset({"KB", "scale", "zero"})


def render(
    name: str, contents: ArtifactContents, notes: Sequence[str], *, layers: bool, width: int = WIDTH
) -> str:
    """Return the artifact's block: a summary and, with `layers`, one row per layer."""
    file = io.StringIO()
    console = plain_console(file, width)
    console.print(plain(f"{name}  ({contents.format}, runs in {contents.engine})"))
    console.print(_summary(contents, notes))
    if layers:
        console.print(_layer_table(contents.layers, with_where=bool(contents.delegates)))
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


def _summary(contents: ArtifactContents, notes: Sequence[str]) -> Table:
    table = Table.grid()
    table.add_column(width=21)
    table.add_column(overflow="fold")
    rows: list[tuple[str, str]] = [
        (
            "size",
            f"{_kilobytes(contents.size_bytes)} KB, of it weights {_kilobytes(contents.weight_bytes)} KB",
        ),
        ("inputs", "; ".join(map(_tensor, contents.inputs))),
        ("outputs", "; ".join(map(_tensor, contents.outputs))),
        ("conv and linear", f"{contents.integer_layers} INT8, {contents.float_layers} float"),
    ]
    if contents.engine == "executorch":
        rows += [
            ("delegate calls", _counts(contents.delegates)),
            ("outside delegates", _counts(contents.outside_delegate)),
            ("copies outside", _counts(contents.copies)),
        ]
    rows.append(("operators", _counts(contents.operators)))
    if contents.optimized_operators is not None:
        executed = f"{contents.executed_integer_layers} INT8, {contents.executed_float_layers} float"
        rows.append(("run on this CPU", f"{executed}: {_counts(contents.optimized_operators)}"))
    rows += [("note", note) for note in notes]
    for label, text in rows:
        table.add_row(plain(f"  {label}"), plain(text))
    return table


def _layer_table(layers: Sequence[LayerInfo], with_where: bool) -> Table:
    columns = {
        "layer": [layer.name for layer in layers],
        "operator": [layer.operator for layer in layers],
        "where": [layer.where if with_where else "" for layer in layers],
        "output": [_shape(layer.shape) for layer in layers],
        "weights": [layer.weight_dtype or "" for layer in layers],
        "KB": [_kilobytes(layer.weight_bytes) if layer.weight_dtype else "" for layer in layers],
        "scale": ["" if layer.scale is None else f"{layer.scale:.6g}" for layer in layers],
        "zero": ["" if layer.zero_point is None else str(layer.zero_point) for layer in layers],
        "clamp": ["{:.4g} to {:.4g}".format(*layer.clamp) if layer.clamp else "" for layer in layers],
    }
    columns = {title: cells for title, cells in columns.items() if any(cells)}
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for title in columns:
        number = title in NUMBERS
        table.add_column(title, justify="right" if number else "left", overflow="fold", no_wrap=number)
    for row in zip(*columns.values(), strict=True):
        table.add_row(*map(plain, row))
    return table


def plain(text: str) -> Text:
    """Return text that cannot steer or flood the terminal: an artifact's names may hold anything."""
    shown = text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + " \N{HORIZONTAL ELLIPSIS}"
    return Text(printable(shown))


def _tensor(tensor: TensorInfo) -> str:
    quantization = "" if tensor.scale is None else f" (scale {tensor.scale:.6g}, zero {tensor.zero_point})"
    shape = f" {_shape(tensor.shape)}" if tensor.shape is not None else ""
    return f"{tensor.name}: {tensor.dtype}{shape}{quantization}"


def _shape(shape: Sequence[int | str] | None) -> str:
    return "" if shape is None else "x".join(map(str, shape)) or "scalar"


def _counts(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {name}" for name, count in ordered) or "none"


def _kilobytes(size_bytes: int) -> str:
    return f"{size_bytes / 1000:.2f}"
