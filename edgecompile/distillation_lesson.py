"""What a student is to learn in a distillation: the samples, and what the teacher gives for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.dataset import Sample
from edgecompile.graph_edit import output_nodes
from edgecompile.quantize.node_values import all_values

# What the teacher gave is kept for later steps, up to so much.
_ROOM_BYTES = 1 << 29


@dataclass(frozen=True, kw_only=True, eq=False)
class Hint:
    """A value inside the teacher that the student is to give as well (Romero et al. 2015, arXiv:1412.6550).

    Attributes:
        node: The teacher's.
        kept: By axis, the indices that the student still has.
    """

    node: Node
    kept: Mapping[int, torch.Tensor]


class Lesson:
    """The samples, and what the teacher gives for them.

    Attributes:
        hints: What is wanted beside the outputs.
        count: How many samples there are.
    """

    def __init__(self, teacher: ExportedProgram, hints: Sequence[Hint], samples: Sequence[Sample]) -> None:
        self.hints, self.count = hints, len(samples)
        self._teacher, self._samples = teacher, samples
        self._wanted: dict[int, list[torch.Tensor]] = {}
        self._room_bytes = _ROOM_BYTES

    def inputs(self, chosen: Sequence[int]) -> list[torch.Tensor]:
        """Return the inputs of several samples, joined."""
        return joined([self._samples[index].inputs for index in chosen])

    def wanted(self, chosen: Sequence[int]) -> list[torch.Tensor]:
        """Return the teacher's outputs and hints for several samples, joined."""
        return joined([self._values(index) for index in chosen])

    def prepare(self) -> None:
        """Compute what can be kept, so that all steps after that take as long."""
        for index in range(self.count):
            if self._room_bytes < 0:
                return
            self._values(index)

    def _values(self, index: int) -> list[torch.Tensor]:
        if index in self._wanted:
            return self._wanted[index]
        with torch.no_grad():
            values = all_values(self._teacher, self._samples[index].inputs)
        wanted = [values[node] for node in output_nodes(self._teacher.graph)]
        for hint in self.hints:
            value = values[hint.node]
            for axis, indices in hint.kept.items():
                value = value.index_select(axis, indices)
            wanted.append(value)
        self._room_bytes -= sum(value.nbytes for value in wanted)
        if self._room_bytes >= 0:
            self._wanted[index] = wanted
        return wanted


def joined(several: Sequence[Sequence[torch.Tensor]]) -> list[torch.Tensor]:
    """Return the inputs or outputs of several samples as those of one run."""
    if len(several) == 1:
        return list(several[0])
    return [torch.cat(values) for values in zip(*several, strict=True)]
