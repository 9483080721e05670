"""The channels that a build removes: as many as are asked for, within what the settings allow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

import torch
from torch.export import ExportedProgram

from edgecompile.dataset import Sample
from edgecompile.errors import (
    NotFiniteValueError,
    NothingToPruneError,
    PruningTargetNotMetError,
    UnknownLayerError,
)
from edgecompile.progress import Progress
from edgecompile.pruning.channel_groups import ChannelGroups, find_groups
from edgecompile.pruning.choose_units import Choice, Limits, choose_units
from edgecompile.pruning.costs import prunable, terms_of
from edgecompile.pruning.importance import IMPORTANCES
from edgecompile.pruning.least_squares import fit_layers
from edgecompile.pruning.pruning_report import MEASURE_NAMES
from edgecompile.pruning.remove_channels import remaining_groups, remove_channels
from edgecompile.target import PruningSettings


def choose_channels(
    exported: ExportedProgram,
    share: float,
    samples: Sequence[Sample],
    settings: PruningSettings,
    progress: Progress,
) -> Choice:
    """Choose what a program loses.

    Args:
        exported: The program.
        share: How much of the prunable cost is to go, 0 to 1.
        samples: Calibration data.
        settings: Say how; where there are several steps, what the units of a program matter is measured
            without those of the steps before.
        progress: Is told of each sample.

    Raises:
        NotFiniteValueError: The model computes NaN or infinity.
        NothingToPruneError: No unit can be removed.
        PruningTargetNotMetError: Not so much can go.
        UnknownLayerError: A rule is for no layer of the program.
    """
    groups = find_groups(exported)
    limits = Limits(
        multiple=settings.channel_multiple,
        minimum=settings.minimum_width,
        fixed=fixed_shares(groups, settings),
    )
    removable = removable_units(groups, settings)
    if not bool(removable.any()):
        raise _nothing_to_prune(groups)
    terms = prunable(terms_of(exported, groups, settings.measure), removable)
    keep = torch.ones(groups.count, dtype=torch.bool)
    left, left_groups = exported, groups
    measure = IMPORTANCES[settings.importance]
    for step in range(1, settings.steps + 1):
        progress.start(f"importance of channels, step {step} of {settings.steps}")
        importance = torch.zeros(groups.count, dtype=torch.float64)
        importance[keep] = measure(left, left_groups, samples, progress).double()
        if not bool(importance.isfinite().all()):
            raise NotFiniteValueError(
                "what channels matter is NaN or infinite in the calibration",
                hint=f"look at the weights that the model loads, or try another importance than "
                f"{settings.importance!r}",
            )
        progress.finish(f"{int(keep.sum())} units, {settings.importance}")
        choice = choose_units(
            groups, terms, importance, share=share * step / settings.steps, limits=limits, keep=keep
        )
        keep = choice.keep
        if step < settings.steps:
            pruned = remove_channels(exported, groups, keep)
            if settings.least_squares:
                pruned = fit_layers(pruned, samples, progress)
            left, left_groups = pruned.exported, remaining_groups(pruned)
    if choice.held_back:
        raise _not_met(choice, share, settings)
    return choice


def fixed_shares(groups: ChannelGroups, settings: PruningSettings) -> dict[str, float]:
    """Return the share of its units that goes of each group that a rule is for; the last rule counts.

    Raises:
        UnknownLayerError: A rule is for no layer.
    """
    rules = {**settings.ratio, **dict.fromkeys(settings.exclude, 0.0)}
    known = sorted({layer for group in groups.groups for layer in group.layers})
    found = {}
    for pattern, share in rules.items():
        matched = [group for group in groups.groups if any(fnmatchcase(own, pattern) for own in group.layers)]
        if not matched:
            where = "pruning.exclude" if pattern in settings.exclude else "pruning.ratio"
            raise UnknownLayerError(pattern, known, where=where)
        found.update(dict.fromkeys((group.name for group in matched), share))
    return found


def removable_units(groups: ChannelGroups, settings: PruningSettings) -> torch.Tensor:
    """Return of each unit whether it can be removed and no rule keeps it, (units,), bool."""
    removable, shares = groups.removable, fixed_shares(groups, settings)
    for group in groups.groups:
        if shares.get(group.name) == 0:
            removable[group.units] = False
    return removable


def _nothing_to_prune(groups: ChannelGroups) -> NothingToPruneError:
    rows = [f"{group.name}: {'; '.join(group.reasons)}" for group in groups.groups]
    return NothingToPruneError(
        "no channel of the model can be removed",
        found="\n".join(rows) or "no layer with channels",
        hint="build without --prune",
    )


def _not_met(choice: Choice, share: float, settings: PruningSettings) -> PruningTargetNotMetError:
    return PruningTargetNotMetError(
        f"{choice.removed:.1%} of the prunable {MEASURE_NAMES[settings.measure]} can go, "
        f"{share:.1%} were asked for",
        found="\n".join(_rows(choice)),
        hint="ask for less, or lower `minimum_width` and `channel_multiple` with --pruning",
    )


def _rows(choice: Choice) -> Iterator[str]:
    for name, reason in choice.held_back.items():
        yield f"{name}: {reason}"
