"""Samples, and how far a pruned program is from the whole one on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from prune_program import Grouped, grouped
from torch import nn
from torch.export import ExportedProgram

from edgecompile.dataset import Sample
from edgecompile.graph_edit import output_nodes
from edgecompile.quantize.node_values import all_values


class Composed(nn.Module):
    """A function of inputs with modules of its own."""

    def __init__(self, function: Callable[..., object], **parts: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, *inputs: torch.Tensor) -> object:
        return self.function(self, *inputs)


def noise(*shape: int, count: int = 12, seed: int = 0) -> list[Sample]:
    """Return samples of noise for one input."""
    generator = torch.Generator().manual_seed(seed)
    return [Sample(inputs=(torch.randn(shape, generator=generator),), label=None) for _ in range(count)]


def grouped_on(network: nn.Module, samples: Sequence[Sample], *, dynamic_batch: bool = False) -> Grouped:
    """Capture a network with the first sample's inputs, and find its groups."""
    return grouped(network, *samples[0].inputs, dynamic_batch=dynamic_batch)


def float_outputs(program: ExportedProgram, sample: Sample) -> list[torch.Tensor]:
    """Return the outputs of a program that are no integers."""
    with torch.no_grad():
        values = all_values(program, sample.inputs)
    return [values[node] for node in output_nodes(program.graph) if values[node].is_floating_point()]


def squared_error(program: ExportedProgram, whole: ExportedProgram, samples: Sequence[Sample]) -> float:
    """Return the squared error of all outputs, a share of their power."""
    difference = power = 0.0
    for sample in samples:
        for own, wanted in zip(float_outputs(program, sample), float_outputs(whole, sample), strict=True):
            difference += float((own.double() - wanted.double()).square().sum())
            power += float(wanted.double().square().sum())
    return difference / power
