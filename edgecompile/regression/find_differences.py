"""Finds what differs between two bundles or artifacts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgecompile.artifact import Bundle, load_bundle
from edgecompile.compare import Outputs, closeness
from edgecompile.decibels import decibels, storable
from edgecompile.engine import load_engine
from edgecompile.errors import EngineFailedError, InvalidManifestError, NotABundleError, UsageError
from edgecompile.goldens import read_goldens
from edgecompile.inspect_artifact import InspectedArtifact, inspect
from edgecompile.progress import Progress, QuietProgress
from edgecompile.readers.contents import ArtifactContents
from edgecompile.regression.differences import (
    CountDifference,
    Differences,
    LayerDifference,
    OutputDifference,
)
from edgecompile.regression.facts import LayerFacts
from edgecompile.regression.read_facts import read_facts

_LEAST_DB = 0.05
"""Smaller changes of a layer are no rows."""
_CLEAR_DB = 1.0
"""Of the first layer that is said to differ."""


@dataclass(frozen=True, kw_only=True)
class _Side:
    """One of the two: the files by format, what is in them, and the bundle that they are of.

    Attributes:
        bundle: That of the folder, or that the single artifact lies in; None if there is none.
        whole: Whether all of the bundle is compared.
    """

    path: Path
    data: Mapping[str, bytes]
    contents: Mapping[str, ArtifactContents]
    bundle: Bundle | None
    whole: bool


def find_differences(a: Path, b: Path, progress: Progress | None = None) -> Differences:
    """Compare two bundles, or two artifacts of one format.

    Outputs are compared on A's goldens, in the engines in Python on this host.

    Raises:
        EdgecompileError: A file is damaged; an engine rejects an artifact.
        UsageError: The two have no format in common.
    """
    progress = progress or QuietProgress()
    left, right = _side(a), _side(b)
    formats = [name for name in left.data if name in right.data]
    if not formats:
        raise UsageError(
            "these two have no format in common",
            found=f"{', '.join(left.data) or 'none'} in A; {', '.join(right.data) or 'none'} in B",
        )
    equal = [name for name in formats if left.data[name] == right.data[name]]
    changed = [name for name in formats if name not in equal]
    outputs, notes = _outputs(left, right, changed, progress)
    notes += [f".{name} is only in A" for name in left.data if name not in right.data]
    notes += [f".{name} is only in B" for name in right.data if name not in left.data]
    layers: list[LayerDifference] = []  # in the order of the graph
    if left.whole and right.whole:
        assert left.bundle is not None and right.bundle is not None
        layers = _layers(
            read_facts(left.bundle, left.contents).layers, read_facts(right.bundle, right.contents).layers
        )
    operators = [
        CountDifference(of=name, name=operator, a=first, b=second)
        for name in changed
        for operator, first, second in _counts(*(_executed(side.contents[name]) for side in (left, right)))
    ]
    sizes = [row for name in changed for row in _sizes(name, left, right)]
    return Differences(
        a=str(a),
        b=str(b),
        equal=tuple(equal),
        outputs=tuple(sorted(outputs, key=lambda row: decibels(row.sqnr_db))),
        first_layer=next((row.name for row in layers if (row.effect_db or 0) >= _CLEAR_DB), None),
        layers=tuple(sorted(layers, key=lambda row: -(math.inf if row.effect_db is None else row.effect_db))),
        operators=tuple(sorted(operators, key=lambda row: -abs(row.b - row.a))),
        sizes=tuple(sorted(sizes, key=lambda row: -abs(row.b - row.a))),
        notes=tuple(notes),
    )


def _side(path: Path) -> _Side:
    whole = path.is_dir()
    folder = path if whole else path.parent
    bundle = None
    try:
        bundle = load_bundle(folder)
        if whole:
            bundle.verify()
    except (NotABundleError, InvalidManifestError):  # a web app has a manifest.json of its own
        if whole:
            raise
    found = inspect(path).artifacts
    return _Side(
        path=path,
        data={item.contents.format: _bytes(path, item, whole) for item in found},
        contents={item.contents.format: item.contents for item in found},
        bundle=bundle,
        whole=whole,
    )


def _bytes(path: Path, item: InspectedArtifact, whole: bool) -> bytes:
    return (path / item.name if whole else path).read_bytes()


def _outputs(
    left: _Side, right: _Side, formats: Sequence[str], progress: Progress
) -> tuple[list[OutputDifference], list[str]]:
    """Return the rows, and why there are none of some format."""
    bundle = left.bundle or right.bundle
    if not formats:
        return [], []
    if bundle is None:
        return [], ["outputs are not compared: neither artifact lies in a bundle, which has inputs"]
    samples, _ = read_goldens(bundle)
    names = [entry.name for entry in bundle.manifest.outputs]
    rows: list[OutputDifference] = []
    notes: list[str] = []
    for name in formats:
        progress.start(f"run both .{name}")
        engine = load_engine(left.contents[name].engine)
        try:
            found = [
                [session.run(sample.inputs) for sample in samples]
                for session in (engine.load(side.data[name], precise=True) for side in (left, right))
            ]
        except EngineFailedError as error:
            notes.append(f".{name}: outputs are not compared: {error.message}")
            continue
        finally:
            progress.finish(f"{len(samples)} goldens")
        counts = [len(side[0]) for side in found]
        if counts != [len(names)] * 2:
            notes.append(f".{name}: outputs are not compared: A has {counts[0]}, B {counts[1]}")
            continue
        for place, output in enumerate(names):
            row = _output(f"{name} {output}", [[(values[place],) for values in side] for side in found])
            if row is None:
                notes.append(f".{name}: the shapes of {output} are not the same")
            elif row.max_abs_difference > 0:
                rows.append(row)
    return rows, notes


def _output(of: str, sides: Sequence[Outputs]) -> OutputDifference | None:
    """Return how one output of both differs; None where the shapes do."""
    first, second = sides
    if any(mine[0].shape != theirs[0].shape for mine, theirs in zip(first, second, strict=True)):
        return None
    found = closeness(second, first)
    return OutputDifference(
        of=of,
        sqnr_db=storable(found.sqnr_db),
        max_abs_difference=found.max_abs_error,
        agreement=found.agreement,
    )


def _layers(left: Mapping[str, LayerFacts], right: Mapping[str, LayerFacts]) -> list[LayerDifference]:
    """Return the layers in one alone, and those that differ, each in the order of the graph."""
    alone = [
        LayerDifference(
            name=name,
            kind=layer.kind,
            where=layer.where,
            what=f"only in {side}",
            a=None,
            b=None,
            effect_db=None,
        )
        for side, own, other in (("A", left, right), ("B", right, left))
        for name, layer in own.items()
        if name not in other
    ]
    both = [_layer(name, layer, right[name]) for name, layer in left.items() if name in right]
    return alone + [row for row in both if row.effect_db is not None and row.effect_db >= _LEAST_DB]


def _layer(name: str, first: LayerFacts, second: LayerFacts) -> LayerDifference:
    """Return the number of a layer that differs most."""
    numbers = {
        "own SQNR, dB": (first.own_sqnr_db, second.own_sqnr_db),
        "SQNR up to here, dB": (first.sqnr_db, second.sqnr_db),
    }
    effects = {what: abs(decibels(a) - decibels(b)) for what, (a, b) in numbers.items()}
    numbers["scale"] = (first.scale, second.scale)
    effects["scale"] = abs(20 * math.log10(second.scale / first.scale))
    what = max(effects, key=lambda key: effects[key])
    a, b = numbers[what]
    return LayerDifference(
        name=name, kind=first.kind, where=first.where, what=what, a=a, b=b, effect_db=effects[what]
    )


def _executed(contents: ArtifactContents) -> dict[str, int]:
    """Return the calls of each operator as its engine executes them, those outside delegates apart."""
    counts = dict(contents.optimized_operators or contents.operators)
    counts |= {f"calls of {name}": count for name, count in contents.delegates.items()}
    outside = contents.outside_delegate | contents.copies if contents.delegates else {}
    return counts | {f"{name} (outside the delegate)": count for name, count in outside.items()}


def _sizes(name: str, left: _Side, right: _Side) -> Iterator[CountDifference]:
    first, second = left.contents[name], right.contents[name]
    layers = [
        {layer.name: layer.weight_bytes for layer in contents.layers if layer.weight_bytes}
        for contents in (first, second)
    ]
    whole = [
        {"whole file": contents.size_bytes, "weights": contents.weight_bytes} for contents in (first, second)
    ]
    if layers[0].keys() != layers[1].keys():
        layers = []  # names that count the layers before them are not those of the same layers
    for part, a, b in (*_counts(*whole), *(_counts(*layers) if layers else ())):
        yield CountDifference(of=name, name=part, a=a, b=b)


def _counts(first: Mapping[str, int], second: Mapping[str, int]) -> Iterator[tuple[str, int, int]]:
    for name in dict.fromkeys((*first, *second)):
        a, b = first.get(name, 0), second.get(name, 0)
        if a != b:
            yield name, a, b
