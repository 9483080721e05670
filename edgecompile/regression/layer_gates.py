"""The gates over layers: one row each for the worst layer, and the first that is not as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from edgecompile.decibels import decibels, sqnr_text
from edgecompile.regression.facts import LayerFacts
from edgecompile.regression.gates import Builds, GateRow


@dataclass(frozen=True, kw_only=True)
class _Measure:
    """One number of a layer: how it is shown, by how much a layer is worse than another, what is allowed."""

    gate: str
    unit: str
    show: Callable[[LayerFacts], float | None]
    worse: Callable[[LayerFacts, LayerFacts], float]
    allowed: float
    allowed_text: str


def layer_sqnr(builds: Builds) -> Iterator[GateRow]:
    """What each layer loses by itself."""
    allowed = builds.allowed.layer_sqnr_drop_db
    measure = _Measure(
        gate="layer-sqnr",
        unit="dB",
        show=lambda layer: layer.own_sqnr_db,
        worse=_sqnr_drop,
        allowed=allowed,
        allowed_text=f"-{allowed:g} dB",
    )
    yield from _worst(builds, measure)


def layer_scale(builds: Builds) -> Iterator[GateRow]:
    """The scale of each layer's output."""
    allowed = builds.allowed.layer_scale_ratio
    measure = _Measure(
        gate="layer-scale",
        unit="",
        show=lambda layer: layer.scale,
        worse=_scale_ratio,
        allowed=allowed,
        allowed_text=f"within x {allowed:g}",
    )
    yield from _worst(builds, measure)


def layer_clipping(builds: Builds) -> Iterator[GateRow]:
    """The share of each layer's values outside its range."""
    allowed = builds.allowed.clipped_rise_points
    measure = _Measure(
        gate="layer-clipping",
        unit="%",
        show=lambda layer: 100 * layer.clipped_share,
        worse=_clipped_rise,
        allowed=allowed,
        allowed_text=f"+{allowed:g} points",
    )
    yield from _worst(builds, measure)


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
            return f"{name} ({_place(old)}): it is not quantized any more, or has another name"
        said = []
        if _sqnr_drop(old, new) > allowed.layer_sqnr_drop_db:
            said.append(
                f"its own SQNR fell from {sqnr_text(old.own_sqnr_db)} to {sqnr_text(new.own_sqnr_db)} dB"
            )
        if _scale_ratio(old, new) > allowed.layer_scale_ratio:
            said.append(f"its scale went from {old.scale:.4g} to {new.scale:.4g}")
        if _clipped_rise(old, new) > allowed.clipped_rise_points:
            said.append(f"{new.clipped_share:.2%} of its values are clipped, {old.clipped_share:.2%} before")
        if not said and decibels(old.sqnr_db) - decibels(new.sqnr_db) > allowed.layer_sqnr_drop_db:
            said.append(f"SQNR up to it fell {_from_to(old.sqnr_db, new.sqnr_db)}")
        if said:
            return f"{name} ({_place(old)}): " + ", ".join(said)
    return None


def _worst(builds: Builds, measure: _Measure) -> Iterator[GateRow]:
    """Return a row of the layer that is worse by most; none where the builds have no layer in common."""
    both = {
        name: (old, builds.now.layers[name])
        for name, old in builds.baseline.layers.items()
        if name in builds.now.layers
    }
    if not both:
        return
    worse = {name: measure.worse(*pair) for name, pair in both.items()}
    over = sum(value > measure.allowed for value in worse.values())
    name = max(worse, key=lambda name: worse[name])
    old, new = both[name]
    what = f"{over} of {len(both)} layers, worst" if over else f"differs most of {len(both)} layers"
    yield GateRow(
        gate=measure.gate,
        of=name,
        baseline=measure.show(old),
        now=measure.show(new),
        unit=measure.unit,
        allowed=measure.allowed_text,
        verdict="failed" if over else "passed",
        detail=f"{what}: {_place(old)}",
    )


def _sqnr_drop(old: LayerFacts, new: LayerFacts) -> float:
    return decibels(old.own_sqnr_db) - decibels(new.own_sqnr_db)


def _scale_ratio(old: LayerFacts, new: LayerFacts) -> float:
    return max(old.scale / new.scale, new.scale / old.scale)


def _clipped_rise(old: LayerFacts, new: LayerFacts) -> float:
    return 100 * (new.clipped_share - old.clipped_share)


def _from_to(old: float | None, new: float | None) -> str:
    return f"from {sqnr_text(old)} to {sqnr_text(new)} dB"


def _place(layer: LayerFacts) -> str:
    return f"{layer.kind}, {layer.where}" if layer.where else layer.kind


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
