"""What calibration knows of each channel: its range in each sample, and how much its noise matters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.dataset import Sample
from edgecompile.graph_edit import output_nodes
from edgecompile.program import CapturedProgram
from edgecompile.progress import Progress
from edgecompile.quantize.channels import Channels
from edgecompile.quantize.node_values import all_values, computed_value, given_values

# Of so many samples the gradients are taken: they are means, and need fewer samples than extremes.
_GRADIENT_SAMPLES = 64
# How much further than the extremes one more sample is taken to be, of their distance to the median of the
# samples' extremes; docs/quantization.md has what that brings.
_FURTHER = 0.25


@dataclass(frozen=True, kw_only=True, eq=False)
class ChannelStatistics:
    """One value's channels over the samples.

    Attributes:
        least: (samples, C), the least value of each channel in each sample.
        greatest: (samples, C).
        power: (C,), the mean square, of the samples with gradients.
        sensitivity: (C,), by how much independent noise of variance 1 on every element of a channel changes
            the outputs: the expected sum of squares, with each output's power scaled to 1.
    """

    least: torch.Tensor
    greatest: torch.Tensor
    power: torch.Tensor
    sensitivity: torch.Tensor

    def scaled(self, factor: torch.Tensor) -> ChannelStatistics:
        """Return those of channels that are multiplied by positive factors, (C,)."""
        return ChannelStatistics(
            least=self.least * factor,
            greatest=self.greatest * factor,
            power=self.power * factor.square(),
            sensitivity=self.sensitivity / factor.square(),
        )

    def shifted(self, offset: torch.Tensor) -> ChannelStatistics:
        """Return those of channels that something is added to, (C,); the power is not known then."""
        return replace(self, least=self.least + offset, greatest=self.greatest + offset)

    @property
    def reach(self) -> torch.Tensor:
        """How far one more sample may be from these, (2, C).

        It is as likely as each of these to be the most extreme, and then it is a little further out.
        """
        least, greatest = self.least.amin(0), self.greatest.amax(0)
        below, above = least - self.least.median(0).values, greatest - self.greatest.median(0).values
        return torch.stack([least + _FURTHER * below, greatest + _FURTHER * above])


def measure_channels(
    program: CapturedProgram, channels: Channels, samples: Sequence[Sample], progress: Progress
) -> dict[Node, ChannelStatistics]:
    """Run samples through a float program and back.

    The sensitivity is the diagonal of a Gauss-Newton matrix, estimated with random projections of the
    outputs (Hutchinson 1990, "A stochastic estimator of the trace of the influence matrix for Laplacian
    smoothing splines"): to first order, noise on a value arrives at the outputs through the gradient.

    Args:
        program: The program after the passes.
        channels: Its channels.
        samples: Inputs of the program.
        progress: Is told of each sample.
    """
    nodes = [node for node, ids in channels.ids.items() if len(ids)]
    generator = torch.Generator().manual_seed(0)  # the same build gives the same artifact
    extremes: dict[Node, list[tuple[torch.Tensor, torch.Tensor]]] = {node: [] for node in nodes}
    power = {node: torch.zeros(len(channels.ids[node])) for node in nodes}
    sensitivity = {node: torch.zeros(len(channels.ids[node])) for node in nodes}
    gradients = min(_GRADIENT_SAMPLES, len(samples))
    for index, sample in enumerate(samples):
        takes_gradient = index < gradients
        inputs = [value.detach() for value in sample.inputs]
        with torch.set_grad_enabled(takes_gradient):
            values = (_followed_values if takes_gradient else all_values)(program.exported, inputs)
        for node in nodes:
            value, axes = values[node].detach(), _other_axes(values[node], channels.axis[node])
            extremes[node].append((value.amin(axes), value.amax(axes)))
        if takes_gradient:
            outputs = [values[node] for node in output_nodes(program.exported.graph)]
            for node, gradient in _gradients(values, outputs, nodes, generator):
                axes = _other_axes(gradient, channels.axis[node])
                power[node] += values[node].detach().square().mean(axes) / gradients
                sensitivity[node] += gradient.square().sum(axes) / gradients
        progress.advance()
    return {
        node: ChannelStatistics(
            least=torch.stack([low for low, _ in extremes[node]]),
            greatest=torch.stack([high for _, high in extremes[node]]),
            power=power[node],
            sensitivity=sensitivity[node],
        )
        for node in nodes
    }


def _followed_values(exported: ExportedProgram, inputs: Sequence[torch.Tensor]) -> dict[Node, Any]:
    """Return the value of every node, ready for gradients.

    They begin at the first values in real numbers: of a network that reads tokens, behind the embedding.
    """
    values = given_values(exported, inputs)
    for value in inputs:
        value.requires_grad_(value.is_floating_point())
    for node in exported.graph.nodes:
        if node.op != "call_function":
            continue
        value = computed_value(node, values)
        if isinstance(value, torch.Tensor) and value.is_floating_point() and not value.requires_grad:
            value = value.detach().requires_grad_()  # of its own: it may be a constant itself
        values[node] = value
    return values


def _gradients(
    values: dict[Node, torch.Tensor],
    outputs: Sequence[torch.Tensor],
    nodes: Sequence[Node],
    generator: torch.Generator,
) -> Iterator[tuple[Node, torch.Tensor]]:
    total = torch.zeros(())
    for output in outputs:
        if not output.requires_grad:
            continue
        power = output.detach().square().sum().sqrt().clamp_min(1e-12)
        total = total + (output * torch.randn(output.shape, generator=generator)).sum() / power
    known = [node for node in nodes if values[node].requires_grad]
    if not total.requires_grad:
        return
    found = torch.autograd.grad(total, [values[node] for node in known], allow_unused=True)
    for node, gradient in zip(known, found, strict=True):
        if gradient is not None:
            yield node, gradient


def _other_axes(value: torch.Tensor, axis: int) -> list[int]:
    return [other for other in range(value.dim()) if other != axis]
