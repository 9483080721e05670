"""What was zeroed, and what it buys: how the report knows it, without torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from edgecompile.pruning.pruning_report import RecoveryRow
from edgecompile.pruning.pruning_text import recovery_table
from edgecompile.text_table import render, table

SPARSE_KERNELS: Mapping[str, str] = {
    "executorch": "XNNPACK's sparse kernels are for float alone, and its delegate never asks for them",
    "onnxruntime": "its CPU kernels take dense weights only",
    "torchscript-lite": "QNNPACK's sparse kernels are for linear layers of their own class, in blocks",
}
"""By engine, why zeros save no time in it: docs/pruning.md has the sources."""


@dataclass(frozen=True, kw_only=True)
class SparseLayer:
    """One layer with zeros.

    Attributes:
        shape: Of its weight.
        zeros: So many of its weights were zeroed.
        found: So many are zero in the program that the artifacts are made from, where rounding gives more;
            None where the layer is not in it as it was.
    """

    name: str
    where: str
    shape: tuple[int, ...]
    weights: int
    zeros: int
    found: int | None


@dataclass(frozen=True, kw_only=True)
class SparseProgram:
    """A program with zeros in float.

    Attributes:
        wanted: What was asked for, `0.5` or `2:4`.
        share: The same as a share of the weights, 0 to 1.
        accuracy: Top-1 of the original, 0 to 1; None without labels.
        recovery: How good the program with zeros is, as it is and with the other weights changed.
        layers: In order.
    """

    wanted: str
    share: float
    accuracy: float | None
    recovery: tuple[RecoveryRow, ...]
    layers: tuple[SparseLayer, ...]


@dataclass(frozen=True, kw_only=True)
class CompressedArtifact:
    """What an artifact takes.

    Attributes:
        compressed_bytes: Of the file, with zlib's level 9.
        sparse_kernels: Whether its engine has kernels that use zeros, and why not.
    """

    format: str
    engine: str
    size_bytes: int
    compressed_bytes: int
    sparse_kernels: str


@dataclass(frozen=True, kw_only=True)
class SparsityReport:
    """A bundle's."""

    program: SparseProgram
    artifacts: tuple[CompressedArtifact, ...]

    @property
    def zeroed(self) -> float:
        """The share of the layers' weights that was zeroed, 0 to 1."""
        return _share(self.program.layers, "zeros")

    @property
    def found(self) -> float:
        """The share that is zero in the artifacts, of the layers that are known there."""
        return _share([row for row in self.program.layers if row.found is not None], "found")

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON's types."""
        return {
            **dataclasses.asdict(self.program),
            "zeroed": self.zeroed,
            "found": self.found,
            "artifacts": [dataclasses.asdict(row) for row in self.artifacts],
        }

    def text(self) -> str:
        """Return what was zeroed, how good that is beside the original, and what it buys."""
        program = self.program
        head = (
            f"sparse: {self.zeroed:.1%} of the weights of {len(program.layers)} layers were zeroed "
            f"({program.wanted} asked for), {self.found:.1%} are zero in the artifacts\n"
        )
        layers = table("layer", "weight", "zeroed", "zero in the artifacts")
        for row in program.layers:
            found = "-" if row.found is None else f"{row.found / row.weights:.1%}"
            shape = "x".join(map(str, row.shape))
            layers.add_row(Text(row.name), shape, f"{row.zeros / row.weights:.1%}", found)
        files = table("artifact", "size", "compressed", "sparse kernels")
        for item in self.artifacts:
            share = item.compressed_bytes / item.size_bytes
            compressed = f"{_kilobytes(item.compressed_bytes)} ({share:.0%})"
            kernels = Text(f"none: {item.sparse_kernels}")
            files.add_row(item.format, _kilobytes(item.size_bytes), compressed, kernels)
        notes = (
            "  compressed: with zlib's level 9, about what a download takes; zeros make no artifact faster\n"
            "  or smaller on the device\n"
        )
        recovery = render(recovery_table(program.recovery, program.accuracy))
        return "\n".join([head, recovery, render(layers), render(files), notes])


def sparse_program_from_dict(document: Mapping[str, Any]) -> SparseProgram:
    """Return what `dataclasses.asdict` gave, read back from JSON."""
    layers = (SparseLayer(**{**row, "shape": tuple(row["shape"])}) for row in document["layers"])
    recovery = (RecoveryRow(**row) for row in document["recovery"])
    return SparseProgram(**{**document, "recovery": tuple(recovery), "layers": tuple(layers)})


def _share(rows: Sequence[SparseLayer], name: str) -> float:
    zeros: int = sum(getattr(row, name) for row in rows)
    return zeros / max(sum(row.weights for row in rows), 1)


def _kilobytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e3:,.0f} KB"
