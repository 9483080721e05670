"""Looks for the cheapest layers to keep in float, so that a budget holds: guided by predictions, measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgecompile.budget import Budget, Trial
from edgecompile.errors import BudgetNotMetError
from edgecompile.quantize.float_sets import FloatSets
from edgecompile.quantize.layers import QuantizedLayer

Layers = tuple[QuantizedLayer, ...]

TAKEN_BACK = 8
"""So many layers of a set that holds are tried in INT8 once more."""


class FloatSearch:
    """Measures programs with some layers in float, each once.

    Attributes:
        trials: What was measured so far, in order.
    """

    def __init__(self, budget: Budget, first: Trial, measure: Callable[[Layers], Trial]) -> None:
        self.trials = [first]
        self._budget = budget
        self._measure = measure

    def holds(self, layers: Layers) -> bool:
        """Tell whether the budget holds with these layers in float."""
        names = tuple(layer.name for layer in layers)
        known = next((trial for trial in self.trials if trial.layers == names), None)
        if known is None:
            known = self._measure(layers)
            self.trials.append(known)
        return known.holds

    def run(self, sets: FloatSets) -> Layers:
        """Return the layers, where the first program, with none in float, does not hold.

        Raises:
            BudgetNotMetError: The last set, of all layers, does not hold either.
        """
        sequence = sets.sequence()
        allowed = self._allowed_noise(sequence[0].noise)
        within = (index for index, item in enumerate(sequence) if item.noise <= allowed)
        start = max(next(within, len(sequence) - 1), 1)
        found = self._first([item.layers for item in sequence], start)
        return self._without_needless(found, sets)

    def _allowed_noise(self, predicted: float) -> float:
        """Return how much noise may be predicted, relative; infinite where the budget does not say.

        Args:
            predicted: For all layers in INT8, which were measured first: how wrong that was is how wrong
                the other predictions are taken to be.
        """
        least, reached = self._budget.min_sqnr_db, self.trials[0].sqnr_db
        if least is None or reached is None:
            return float("inf")
        return float(predicted * 10 ** ((reached - least) / 10))

    def _first(self, sequence: Sequence[Layers], start: int) -> Layers:
        """Return the first set that holds, sought from where it is predicted to be, in growing steps."""
        fails, holds, step = 0, len(sequence), 1
        place = start
        while holds - fails > 1:
            if self.holds(sequence[place]):
                holds, place = place, max(place - step, fails + 1)
            else:
                fails, place = place, min(place + step, holds - 1)
            if fails > 0 and holds < len(sequence):
                place, step = (fails + holds) // 2, 1
            else:
                step *= 2
        if holds == len(sequence):
            raise self._not_met()
        return sequence[holds]

    def _without_needless(self, layers: Layers, sets: FloatSets) -> Layers:
        """Return a set that holds without the layers that it holds without, the least noisy tried first."""
        kept, count = set(layers), 0
        while len(kept) != count:  # what had to stay beside one that went since then may go as well
            count = len(kept)
            for layer in sorted(kept, key=lambda layer: sets.noise(kept - {layer}))[:TAKEN_BACK]:
                rest = sets.in_order(kept - {layer})
                if rest and self.holds(rest):
                    kept = set(rest)
        return sets.in_order(kept)

    def _not_met(self) -> BudgetNotMetError:
        best = max(self.trials, key=lambda trial: float("inf") if trial.sqnr_db is None else trial.sqnr_db)
        count = len(best.layers)
        return BudgetNotMetError(
            f"the budget does not hold, whatever stays in float: {self._budget.text()}",
            found=f"{best.text()} with {count} layers in float, the closest of {len(self.trials)} programs",
            hint="ask for less; or find out with `--precision fp32` what the engines themselves lose",
        )
