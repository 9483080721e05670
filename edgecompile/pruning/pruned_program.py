"""A program without some of its units, beside the program that it was made from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.export import ExportedProgram

from edgecompile.pruning.channel_groups import ChannelGroups


@dataclass(frozen=True, kw_only=True, eq=False)
class PrunedProgram:
    """What surgery made of a program, as it is or after recovery.

    Attributes:
        whole: The program before.
        groups: Its groups.
        keep: Of each unit, whether it stays, (units,), bool.
        exported: The program without the others; its nodes have the names that they have in the whole one.
    """

    whole: ExportedProgram
    groups: ChannelGroups
    keep: torch.Tensor
    exported: ExportedProgram
