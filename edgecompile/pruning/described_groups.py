"""Groups of channels and what pruning did to them, as reports tell it."""

from __future__ import annotations

import torch
from torch.export import ExportedProgram

from edgecompile.capture import capture, load_model
from edgecompile.program import Declined
from edgecompile.pruning.channel_groups import ChannelGroups, find_groups
from edgecompile.pruning.choose_channels import removable_units
from edgecompile.pruning.costs import prunable, terms_of, total
from edgecompile.pruning.pruned_program import PrunedProgram
from edgecompile.pruning.pruning_report import COSTS, Cost, GroupRow, ModelGroups, PruningReport
from edgecompile.pruning.zeroed_channels import Proof
from edgecompile.target import PruningSettings


def group_rows(exported: ExportedProgram, groups: ChannelGroups, keep: torch.Tensor) -> tuple[GroupRow, ...]:
    """Return one row a group, in order.

    Args:
        exported: The whole program.
        groups: Its groups.
        keep: Of each unit, whether it stays, (units,), bool.
    """
    macs, parameters = (terms_of(exported, groups, measure) for measure in COSTS)
    everything = torch.ones(groups.count, dtype=torch.bool)
    rows = []
    for group in groups.groups:
        own = torch.zeros(groups.count, dtype=torch.bool)
        own[group.all_units] = True
        rows.append(
            GroupRow(
                name=group.name,
                layers=group.layers,
                where=group.where,
                width=group.widths[0],
                units=int(own.sum()),
                removable=len(group.units),
                left=int(keep[group.all_units].sum()),
                macs=round(total(prunable(macs, own), everything)),
                parameters=round(total(prunable(parameters, own), everything)),
                reasons=group.reasons,
            )
        )
    return tuple(rows)


def groups_of_model(spec: str) -> ModelGroups:
    """Return the groups of a MODEL.

    Raises:
        EdgecompileError: The model cannot be loaded or captured.
    """
    exported = capture(load_model(spec), dynamic_batch=False).exported
    groups = find_groups(exported)
    everything = torch.ones(groups.count, dtype=torch.bool)
    macs, parameters = (
        round(total(prunable(terms_of(exported, groups, measure), groups.removable), everything))
        for measure in COSTS
    )
    return ModelGroups(
        total=_cost(exported, groups, everything),
        prunable=Cost(macs=macs, parameters=parameters),
        groups=group_rows(exported, groups, everything),
    )


def declined_groups(groups: ChannelGroups) -> tuple[Declined, ...]:
    """Return one row for each group that cannot lose all of its units, and why."""
    return tuple(
        Declined(what=group.name, where=group.where, reason="; ".join(group.reasons))
        for group in groups.groups
        if group.reasons
    )


def pruning_report(
    removed: PrunedProgram, share: float, settings: PruningSettings, proof: Proof
) -> PruningReport:
    """Return what was removed, without how good what is left is.

    Args:
        removed: After the surgery alone.
        share: How much was asked for, 0 to 1.
        settings: Say of what.
        proof: Of the surgery.
    """
    whole, groups, keep = removed.whole, removed.groups, removed.keep
    everything = torch.ones_like(keep)
    terms = terms_of(whole, groups, settings.measure)
    changing = prunable(terms, removable_units(groups, settings))
    before, after = (total(changing, own) for own in (everything, keep))
    return PruningReport(
        measure=settings.measure,
        wanted=share,
        removed=1 - after / before if before else 0.0,
        before=_cost(whole, groups, everything),
        after=_cost(whole, groups, keep),
        prunable=before,
        proof_samples=proof.samples,
        proof_error=proof.greatest_error,
        accuracy=None,
        recovery=(),
        groups=group_rows(whole, groups, keep),
    )


def _cost(exported: ExportedProgram, groups: ChannelGroups, keep: torch.Tensor) -> Cost:
    macs, parameters = (terms_of(exported, groups, measure) for measure in COSTS)
    return Cost(macs=round(total(macs, keep)), parameters=round(total(parameters, keep)))
