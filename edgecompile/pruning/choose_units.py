"""Which units go: those that matter least for what they cost, until enough of the cost is gone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from edgecompile.pruning.channel_groups import ChannelGroup, ChannelGroups
from edgecompile.pruning.costs import Term, total

# By how much less than wanted may go, a share of the prunable cost: units go in steps.
_SHORT = 0.03


@dataclass(frozen=True, kw_only=True, eq=False)
class Choice:
    """What stays.

    Attributes:
        keep: Of each unit, whether it stays, (units,), bool.
        removed: The share of the prunable cost that is gone, 0 to 1.
        held_back: Why no more could go, by the name of the group; empty where the target is met.
    """

    keep: torch.Tensor
    removed: float
    held_back: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How far a group may shrink.

    Attributes:
        multiple: Widths become multiples of so many channels, where the whole width allows it.
        minimum: The least channels of a layer.
        fixed: By the name of a group, the share of its units that goes, whatever the others do.
    """

    multiple: int
    minimum: int
    fixed: Mapping[str, float]


def choose_units(
    groups: ChannelGroups,
    terms: Sequence[Term],
    importance: torch.Tensor,
    *,
    share: float,
    limits: Limits,
    keep: torch.Tensor | None = None,
) -> Choice:
    """Choose greedily: each time the few units of one group that matter least for the cost they take along.

    Args:
        groups: The groups of a program.
        terms: Its prunable costs.
        importance: Of each unit, (units,): what removing it costs in quality; comparable over groups.
        share: How much of the prunable cost is to go, 0 to 1.
        limits: How far a group may shrink.
        keep: What stays of earlier steps; all of it by default.
    """
    costs = _Costs(terms, groups, keep)
    goal = costs.whole * (1 - share)
    shrinking = [_Shrinking(group, importance, limits, costs) for group in groups.groups if len(group.units)]
    for own in shrinking:
        own.shrink_to(limits.fixed.get(own.name))
    free = [own for own in shrinking if own.name not in limits.fixed]
    while costs.left > goal:
        offers = [offer for group in free if (offer := group.offer()) is not None]
        if not offers:
            break
        best = min(offers, key=lambda offer: offer.price)
        excess = costs.left - goal
        if best.saved > excess:  # the last one: what ends nearest to the goal
            best = min(offers, key=lambda offer: abs(offer.saved - excess))
            if best.saved >= 2 * excess and excess <= _SHORT * costs.whole:
                break
        costs.remove(best.units)
    removed = 1 - costs.left / costs.whole if costs.whole else 0.0
    is_met = removed >= share - _SHORT
    held_back = {} if is_met else {own.name: own.reason() for own in shrinking}
    return Choice(keep=costs.keep, removed=removed, held_back=held_back)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Offer:
    """The next units of a group."""

    units: torch.Tensor
    saved: float
    price: float


class _Counts:
    """How many channels of each of some widths stay, and would stay without some units."""

    def __init__(self, widths: Sequence[torch.Tensor], keep: torch.Tensor) -> None:
        self.stay = [int(keep[width].sum()) for width in widths]
        self._of_unit: list[list[tuple[int, int]]] = [[] for _ in range(len(keep))]
        for index, width in enumerate(widths):
            units, times = torch.unique(width, return_counts=True)
            for unit, count in zip(units.tolist(), times.tolist(), strict=True):
                self._of_unit[unit].append((index, count))

    def without(self, units: torch.Tensor) -> dict[int, int]:
        """Return the counts that change, by the index of the width, when units that stay now go."""
        changed: dict[int, int] = {}
        for unit in units.tolist():
            for index, count in self._of_unit[unit]:
                changed[index] = changed.get(index, self.stay[index]) - count
        return changed


class _Costs:
    """The cost of what stays, and of what would stay without some units."""

    def __init__(self, terms: Sequence[Term], groups: ChannelGroups, keep: torch.Tensor | None) -> None:
        everything = torch.ones(groups.count, dtype=torch.bool)
        self.keep = everything.clone() if keep is None else keep.clone()
        self.whole = total(terms, everything)
        # A term's widths are counted one by one: its cost is what a channel of each costs, times the counts.
        self._rates, self._places = [], []
        widths, self._term_of = list[torch.Tensor](), list[int]()
        for index, term in enumerate(terms):
            self._rates.append(term.base / math.prod(len(width) for width in term.widths))
            self._places.append(range(len(widths), len(widths) + len(term.widths)))
            widths += term.widths
            self._term_of += [index] * len(term.widths)
        self._counts = _Counts(widths, self.keep)
        self._own = [self._cost(index, {}) for index in range(len(terms))]
        # No layer may lose all of its channels, and no product all of its terms.
        read = [labels.ids.reshape(-1) for several in groups.of_constants.values() for labels in several]
        self._layers = _Counts(read, self.keep)

    @property
    def left(self) -> float:
        """The cost of what stays."""
        return math.fsum(self._own)

    def saved(self, units: torch.Tensor) -> float:
        """Return the cost that goes with units."""
        changed = self._counts.without(units)
        touched = {self._term_of[place] for place in changed}
        return math.fsum(self._own[index] - self._cost(index, changed) for index in touched)

    def narrowest(self, units: torch.Tensor) -> int:
        """Return the least width of a layer that would be left without units."""
        return min(self._layers.without(units).values(), default=0)

    def remove(self, units: torch.Tensor) -> None:
        """Remove units."""
        self.keep[units] = False
        for counts in (self._counts, self._layers):
            for place, count in counts.without(units).items():
                counts.stay[place] = count
        self._own = [self._cost(index, {}) for index in range(len(self._own))]

    def _cost(self, index: int, changed: Mapping[int, int]) -> float:
        counts = (changed.get(place, self._counts.stay[place]) for place in self._places[index])
        return self._rates[index] * math.prod(counts)


class _Shrinking:
    """A group from which units go, the least important first."""

    def __init__(self, group: ChannelGroup, importance: torch.Tensor, limits: Limits, costs: _Costs) -> None:
        self.name = group.name
        self._costs, self._importance = costs, importance
        self._order = group.units[importance[group.units].argsort(stable=True)]
        self._kept = group.kept
        per_unit = max(1, min(group.widths) // (len(group.units) + group.kept))
        self._step = limits.multiple // math.gcd(limits.multiple, per_unit)
        self._minimum = min(limits.minimum, *group.widths)
        self._is_fixed = group.name in limits.fixed

    def offer(self) -> _Offer | None:
        """Return the next units to go, or None where none may."""
        left = self._left()
        count = (len(left) + self._kept) % self._step or self._step
        if count > len(left):
            return None
        units = left[:count]
        if self._costs.narrowest(units) < self._minimum:
            return None
        saved = self._costs.saved(units)
        if saved <= 0:
            return None
        return _Offer(units=units, saved=saved, price=float(self._importance[units].sum()) / saved)

    def shrink_to(self, share: float | None) -> None:
        """Remove the share of the units that a rule says, to the nearest step."""
        goal = 0 if share is None else share * len(self._order)
        while (offer := self.offer()) is not None:
            gone = len(self._order) - len(self._left())
            if gone + len(offer.units) / 2 > goal:
                return
            self._costs.remove(offer.units)

    def reason(self) -> str:
        """Return why no more units go."""
        left = f"{len(self._left()) + self._kept} of {len(self._order) + self._kept} units are left"
        if self._is_fixed:
            return f"{left}, as its rule says"
        kept = f"; {self._kept} have to stay" if self._kept else ""
        return f"{left}: {self._minimum} channels are the least, in steps of {self._step} units{kept}"

    def _left(self) -> torch.Tensor:
        return self._order[self._costs.keep[self._order]]
