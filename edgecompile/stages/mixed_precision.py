"""Which layers stay in float so that a budget holds: the fewest, measured on whole programs."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecompile.budget import Budget, KeptLayer, MixedPrecision, Trial, mixed_precision_from_dict
from edgecompile.cache import digest
from edgecompile.dataset import Dataset
from edgecompile.decibels import LOWEST_SQNR_DB
from edgecompile.errors import BudgetNotMetError, LabelsRequiredError
from edgecompile.program import CapturedProgram, QuantizedProgram
from edgecompile.stage_cache import HashedFile, Result, StageCache
from edgecompile.stages.quality import reference_outputs
from edgecompile.stages.quantized import Kept, quantized_program
from edgecompile.stages.reads import tools
from edgecompile.stages.sensitivity import sensitivity

if TYPE_CHECKING:
    from edgecompile.compare import Outputs
    from edgecompile.evaluate import Quality
    from edgecompile.quantize.float_sets import FloatSets
    from edgecompile.quantize.layers import QuantizedLayer
    from edgecompile.target import Target


class KeptMixedPrecision:
    """Keeps what stays in float, and what was tried."""

    name = "mixed-precision"

    def write(self, value: MixedPrecision, file: HashedFile) -> dict[str, Any]:
        """Write it as JSON."""
        file.write(json.dumps(value.to_dict(), allow_nan=False).encode())
        return {}

    def read(self, path: Path, summary: dict[str, Any]) -> MixedPrecision:
        """Return it."""
        return mixed_precision_from_dict(json.loads(path.read_bytes()))

    def can_keep(self, value: MixedPrecision) -> bool:
        """It can always be kept."""
        return True


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What programs are measured on.

    Attributes:
        floats: What the model itself gives for the data.
        emitters: What will write the artifacts; their engines' arithmetics count.
    """

    data: Result[Dataset]
    floats: Result[Outputs]
    emitters: Sequence[str]


def mixed_precision(
    cache: StageCache,
    in_float: Result[CapturedProgram],
    *,
    calibration: Result[Dataset],
    measured: Measured,
    target: Target,
    budget: Budget,
) -> Result[MixedPrecision]:
    """Return which layers of a program stay in float.

    Raises:
        BudgetNotMetError: It does not even hold in float.
        LabelsRequiredError: It is on accuracy, and a sample has no label.
    """
    key = digest(
        "mixed-precision",
        in_float.key,
        calibration.digest,
        measured.data.digest,
        measured.floats.digest,
        *measured.emitters,
        json.dumps(dataclasses.asdict(target.quantization)),
        str(target.validation.sensitivity_samples),
        json.dumps(dataclasses.asdict(budget)),
        tools(),
    )

    def quantized(nodes: Kept) -> Result[QuantizedProgram]:
        kept = _as_result(cache, nodes)
        return quantized_program(
            cache, in_float, calibration=calibration, target=target, precision="int8", kept=kept
        )

    def make() -> MixedPrecision:
        from edgecompile.quantize.float_search import FloatSearch
        from edgecompile.quantize.float_sets import FloatSets
        from edgecompile.quantize.side_by_side import float_nodes

        samples = measured.data.value().samples
        if budget.max_accuracy_drop is not None and any(sample.label is None for sample in samples):
            raise LabelsRequiredError(
                "a budget on accuracy needs a label for every sample",
                where=str(measured.data.summary["spec"]),
                hint="give labelled samples with --evaluation, or use --min-sqnr-db",
            )
        whole = quantized(())
        cache.progress.note(f"the budget is {budget.text()}")
        first = _trial(cache, whole, measured, budget, ())
        if first.holds:
            return MixedPrecision(budget=budget.text(), quantizable=0, layers=(), nodes=(), trials=(first,))
        found = sensitivity(cache, program=whole, in_float=in_float, data=measured.data, target=target)
        sets = FloatSets(whole.value(), found.value())
        twins = float_nodes(whole.value().exported, in_float.value().exported)

        def nodes_of(kept: Sequence[QuantizedLayer]) -> Kept:
            inside = (node for layer in sets.whole(kept) for node in layer.nodes)
            return tuple(twins[node].name for node in inside if node in twins)

        def measure(kept: Sequence[QuantizedLayer]) -> Trial:
            return _trial(cache, quantized(nodes_of(kept)), measured, budget, kept)

        search = FloatSearch(budget, first, measure)
        layers = search.run(sets)
        return MixedPrecision(
            budget=budget.text(),
            quantizable=len(sets.layers),
            layers=tuple(_kept(layer, sets) for layer in layers),
            nodes=nodes_of(layers),
            trials=tuple(search.trials),
        )

    return cache.result(KeptMixedPrecision(), key, make, f"mixed precision of {target.name}")


def kept_nodes(cache: StageCache, mixed: Result[MixedPrecision] | None) -> Result[Kept] | None:
    """Return the nodes that stay in float; None where all that can be is quantized."""
    if mixed is None:
        return None
    if cache.planned is not None and mixed.digest.startswith("not made"):
        return cache.unknown("kept", mixed.key)
    return _as_result(cache, mixed.value().nodes)


def check_artifacts(rows: Sequence[Quality], budget: Budget) -> None:
    """Check that each artifact holds in its engine what the program holds.

    Args:
        rows: Of the report, the float model's first.
        budget: What must hold.

    Raises:
        BudgetNotMetError: One does not.
    """
    of_float = next(row.accuracy for row in rows if row.against_float is None)
    for row in rows:
        if row.against_float is None:
            continue
        drop = None
        if of_float is not None and row.accuracy is not None:
            drop = 100 * (of_float - row.accuracy)
        found = _judged(budget, (), row.against_float.sqnr_db, drop)
        if found.holds:
            continue
        raise BudgetNotMetError(
            f"the budget does not hold in {row.name}: {budget.text()}",
            found=found.text(),
            hint="its engine rounds otherwise than the reference: ask for more, or leave the format out",
        )


def _as_result(cache: StageCache, nodes: Kept) -> Result[Kept] | None:
    if not nodes:
        return None
    return cache.unwritten("kept", digest("kept", *nodes), lambda: nodes, size_bytes=0)


def _kept(layer: QuantizedLayer, sets: FloatSets) -> KeptLayer:
    return KeptLayer(name=layer.name, kind=layer.kind, where=layer.where, mac_share=sets.mac_share(layer))


def _trial(
    cache: StageCache,
    program: Result[QuantizedProgram],
    measured: Measured,
    budget: Budget,
    kept: Sequence[QuantizedLayer],
) -> Trial:
    """Measure a program in the arithmetic of each engine; the worst counts."""
    from edgecompile.compare import accuracy, closeness
    from edgecompile.emitter import load_emitter
    from edgecompile.evaluate import arithmetics_of

    arithmetics = arithmetics_of([load_emitter(name).engine for name in measured.emitters])
    references = reference_outputs(cache, program, measured.data, arithmetics)
    outputs = [result.value() for result in references.values()]
    floats = measured.floats.value()
    sqnr_db = min(closeness(own, floats).sqnr_db for own in outputs)
    samples = measured.data.value().samples
    labels = [sample.label for sample in samples if sample.label is not None]
    drop = None
    if len(labels) == len(samples):
        of_float = accuracy(floats, labels)
        drop = max(100 * (of_float - accuracy(own, labels)) for own in outputs)
    program.drop()
    trial = _judged(budget, tuple(layer.name for layer in kept), sqnr_db, drop)
    verdict = "holds" if trial.holds else "does not hold"
    cache.progress.note(f"{len(kept)} layers in float: {trial.text()}; the budget {verdict}")
    return trial


def _judged(budget: Budget, layers: tuple[str, ...], sqnr_db: float, drop: float | None) -> Trial:
    return Trial(
        layers=layers,
        sqnr_db=None if sqnr_db == math.inf else max(sqnr_db, LOWEST_SQNR_DB),
        accuracy_drop=drop,
        holds=budget.holds(sqnr_db, drop),
    )
