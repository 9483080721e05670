"""Prunes a captured network, and checks what always holds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.export import ExportedProgram

from edgecompile.capture import capture
from edgecompile.graph_edit import user_input_names
from edgecompile.graph_pass import signature
from edgecompile.program import SourceModel
from edgecompile.pruning.channel_groups import ChannelGroups, find_groups
from edgecompile.pruning.remove_channels import remove_channels
from edgecompile.pruning.zeroed_channels import Proof, prove


@dataclass(frozen=True, kw_only=True, eq=False)
class Grouped:
    """A captured network and its groups."""

    network: nn.Module
    inputs: tuple[torch.Tensor, ...]
    program: ExportedProgram
    groups: ChannelGroups

    def by_name(self) -> dict[str, tuple[int, int]]:
        """Return how many units of each group can be removed, and how many stay."""
        return {group.name: (len(group.units), group.kept) for group in self.groups.groups}

    def reasons(self) -> dict[str, tuple[str, ...]]:
        """Return why units of a group stay, where some do."""
        return {group.name: group.reasons for group in self.groups.groups if group.reasons}


def grouped(network: nn.Module, *inputs: torch.Tensor, dynamic_batch: bool = False) -> Grouped:
    """Capture a network in inference mode and find its groups."""
    source = SourceModel(name="net", module=network.eval(), exported=None, example_inputs=inputs)
    program = capture(source, dynamic_batch=dynamic_batch).exported
    return Grouped(network=network, inputs=inputs, program=program, groups=find_groups(program))


def pruned(found: Grouped, keep: torch.Tensor, *others: tuple[torch.Tensor, ...]) -> ExportedProgram:
    """Remove what does not stay; prove it on the example inputs and on others."""
    return pruned_and_proof(found, keep, *others)[0]


def pruned_and_proof(
    found: Grouped, keep: torch.Tensor, *others: tuple[torch.Tensor, ...]
) -> tuple[ExportedProgram, Proof]:
    """Return the pruned program, which must have the whole one's signature, and what was compared."""
    text = str(found.program.graph)
    result = remove_channels(found.program, found.groups, keep)
    smaller = result.exported
    smaller.validate()
    assert signature(smaller) == signature(found.program)
    assert user_input_names(smaller) == user_input_names(found.program)
    assert str(found.program.graph) == text, "the program that went in is changed"
    return smaller, prove(result, [found.inputs, *others])


def widths(program: ExportedProgram) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a program's weights by name."""
    return {name: tuple(value.shape) for name, value in program.state_dict.items() if value.dim() > 1}
