"""The gates over layers: one row each for the worst layer, and the first that is not as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from edgecompile.decibels import decibels, sqnr_text
from edgecompile.regression.facts import LayerFacts
from edgecompile.regression.gates import Builds, Gate, GateRow
from edgecompile.regression.tolerances import Tolerances

if TYPE_CHECKING:
    from edgecompile.layer_tally import LayerResult


@dataclass(frozen=True, kw_only=True)
class _Measure:
    """One number of a layer.

    Attributes:
        unit: As in `GateRow`.
        show: Gives the number.
        worse: By how much the second of two layers is worse than the first.
        allowed: How much it may be.
        allowed_text: The same in words, with a place for it.
    """

    unit: str
    show: Callable[[LayerFacts], float | None]
    worse: Callable[[LayerFacts, LayerFacts], float]
    allowed: Callable[[Tolerances], float]
    allowed_text: str


def _sqnr_drop(old: LayerFacts, new: LayerFacts) -> float:
    return decibels(old.own_sqnr_db) - decibels(new.own_sqnr_db)


def _scale_ratio(old: LayerFacts, new: LayerFacts) -> float:
    return max(old.scale / new.scale, new.scale / old.scale)


def _clipped_rise(old: LayerFacts, new: LayerFacts) -> float:
    return 100 * (new.clipped_share - old.clipped_share)


_MEASURES = {
    "layer-sqnr": _Measure(
        unit="dB",
        show=lambda layer: layer.own_sqnr_db,
        worse=_sqnr_drop,
        allowed=lambda tolerances: tolerances.layer_sqnr_drop_db,
        allowed_text="-{:g} dB",
    ),
    "layer-scale": _Measure(
        unit="",
        show=lambda layer: layer.scale,
        worse=_scale_ratio,
        allowed=lambda tolerances: tolerances.layer_scale_ratio,
        allowed_text="within x {:g}",
    ),
    "layer-clipping": _Measure(
        unit="%",
        show=lambda layer: 100 * layer.clipped_share,
        worse=_clipped_rise,
        allowed=lambda tolerances: tolerances.clipped_rise_points,
        allowed_text="+{:g} points",
    ),
}


def layers(builds: Builds) -> Iterator[GateRow]:
    """Which quantized layers there are."""
    gone = [name for name in builds.baseline.layers if name not in builds.now.layers]
    new = [name for name in builds.now.layers if name not in builds.baseline.layers]
    parts = [f"gone: {_some(gone)}"] * bool(gone) + [f"new: {_some(new)}"] * bool(new)
    if not builds.baseline.layers and not builds.now.layers:
        return
    yield GateRow(
        gate="layers",
        of="quantized",
        baseline=len(builds.baseline.layers),
        now=len(builds.now.layers),
        allowed="the same",
        verdict="missing" if gone else "passed",
        detail="; ".join(parts),
    )


def first_divergence(builds: Builds) -> str | None:
    """Return the first layer, in the order of the graph, that is worse than it was, and how; or None."""
    allowed = builds.allowed
    for name, old in builds.baseline.layers.items():
        new = builds.now.layers.get(name)
        if new is None:
            return f"{name} ({described(old)}): it is not quantized any more, or has another name"
        said = []
        if _sqnr_drop(old, new) > allowed.layer_sqnr_drop_db:
            said.append(f"its own SQNR fell {_from_to(old.own_sqnr_db, new.own_sqnr_db)}")
        if _scale_ratio(old, new) > allowed.layer_scale_ratio:
            said.append(f"its scale went from {old.scale:.4g} to {new.scale:.4g}")
        if _clipped_rise(old, new) > allowed.clipped_rise_points:
            said.append(f"{new.clipped_share:.2%} of its values are clipped, {old.clipped_share:.2%} before")
        if not said and decibels(old.sqnr_db) - decibels(new.sqnr_db) > allowed.layer_sqnr_drop_db:
            said.append(f"SQNR up to it fell {_from_to(old.sqnr_db, new.sqnr_db)}")
        if said:
            return f"{name} ({described(old)}): " + ", ".join(said)
    return None


def _worst(gate: str, builds: Builds) -> Iterator[GateRow]:
    """Return a row of the layer that is worse by most; none where the builds have no layer in common."""
    measure = _MEASURES[gate]
    allowed = measure.allowed(builds.allowed)
    both = {
        name: (old, builds.now.layers[name])
        for name, old in builds.baseline.layers.items()
        if name in builds.now.layers
    }
    if not both:
        return
    worse = {name: measure.worse(*pair) for name, pair in both.items()}
    over = sum(value > allowed for value in worse.values())
    name = max(worse, key=lambda name: worse[name])
    old, new = both[name]
    what = f"{over} of {len(both)} layers, worst" if over else f"differs most of {len(both)} layers"
    yield GateRow(
        gate=gate,
        of=name,
        baseline=measure.show(old),
        now=measure.show(new),
        unit=measure.unit,
        allowed=measure.allowed_text.format(allowed),
        verdict="failed" if over else "passed",
        detail=f"{what}: {described(old)}",
    )


NUMBERS: Mapping[str, Gate] = {gate: partial(_worst, gate) for gate in _MEASURES}
"""What each layer loses by itself, the scale of its output, and the share of values outside its range."""


def _from_to(old: float | None, new: float | None) -> str:
    return f"from {sqnr_text(old)} to {sqnr_text(new)} dB"


def described(layer: LayerFacts | LayerResult) -> str:
    """Return a layer's kind and source line."""
    return f"{layer.kind}, {layer.where}" if layer.where else layer.kind


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
