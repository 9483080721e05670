"""The whole flow: MODEL and settings in, one bundle for each target out.

Every step gives a `Result` that is made only where it is not in the cache yet: `edgecompile/stages/` says
what each is made from, and how.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgecompile.artifact import Bundle, Emitted
from edgecompile.build_cache import open_cache, stages_folder
from edgecompile.bundle_writer import fitted_pipeline, write_bundle
from edgecompile.dataset import Dataset
from edgecompile.lower import lower_all, workers_for
from edgecompile.program import CapturedProgram, QuantizedProgram
from edgecompile.progress import Progress, QuietProgress
from edgecompile.settings import BuildSettings
from edgecompile.stage_cache import Result, ResultChangedError, StageCache
from edgecompile.stages.bundle_files import Analysis, BundleFiles, bundle_files
from edgecompile.stages.captured import captured_program, input_specs_of, output_specs_of
from edgecompile.stages.costs import layer_costs
from edgecompile.stages.emitted import Lowering
from edgecompile.stages.findings import Findings, findings, note_findings
from edgecompile.stages.in_float import float_program
from edgecompile.stages.layers import layer_quality
from edgecompile.stages.mixed_precision import Measured, check_artifacts, kept_nodes, mixed_precision
from edgecompile.stages.pruned import pruned_program
from edgecompile.stages.quality import quality
from edgecompile.stages.quantized import quantized_program
from edgecompile.stages.samples import noise, samples_of
from edgecompile.stages.sensitivity import sensitivity
from edgecompile.stages.sparse import sparse_program, zeros_found
from edgecompile.target import Target, load_target

if TYPE_CHECKING:
    from edgecompile.compare import Outputs


def build(settings: BuildSettings, progress: Progress | None = None) -> tuple[Bundle, ...]:
    """Compile a model for each target, and write the bundles.

    Raises:
        EdgecompileError: One class a case; earlier bundles in the output folder are kept.
    """
    with open_cache(settings, progress or QuietProgress()) as cache:
        try:
            return _write(cache, settings)
        except ResultChangedError as changed:
            cache.progress.note(f"{changed} is another one than before: all that depends on it is made again")
            return _write(cache, settings)


def _write(cache: StageCache, settings: BuildSettings) -> tuple[Bundle, ...]:
    made = _compile(cache, settings)
    return tuple(write_bundle(settings, *parts, cache.progress) for parts in made)


def plan(settings: BuildSettings) -> list[tuple[str, bool]]:
    """Return the stages of a build, and whether the cache has the result of each; nothing is made."""
    cache = StageCache(stages_folder(), QuietProgress(), dry=True)
    if settings.cache:
        _compile(cache, settings)
    return cache.planned or []


def _compile(
    cache: StageCache, settings: BuildSettings
) -> list[tuple[Target, Result[BundleFiles], list[Result[Emitted]]]]:
    """Return what each target's bundle is written from."""
    targets = [load_target(name, settings.overrides) for name in settings.targets]
    captured = captured_program(cache, settings)
    if cache.planned is None:
        # Before the long work.
        fitted_pipeline(settings, input_specs_of(captured), output_specs_of(captured))
    with workers_for(cache, _emitters(settings, targets), captured, jobs=settings.jobs) as workers:
        calibration, evaluation = _data(cache, captured, settings)
        programs = [
            _target_program(cache, captured, calibration, evaluation, target=target, settings=settings)
            for target in targets
        ]
        note_findings(cache, [item.findings for item in programs])
        captured.drop()  # from here on the weights are those of the programs
        lowerings = [
            [
                Lowering(program=item.program, format=name, settings=item.target.emit[name])
                for name in settings.formats or item.target.formats
            ]
            for item in programs
        ]
        artifacts = lower_all(cache, lowerings, workers)

    made = []
    for item, own in zip(programs, artifacts, strict=True):
        target, program, floats = item.target, item.program, item.floats
        rows = quality(cache, program=program, artifacts=own, data=evaluation, floats=floats, target=target)
        if settings.budget and cache.planned is None:
            against = quality(
                cache, program=program, artifacts=own, data=evaluation, floats=item.originals, target=target
            )
            check_artifacts(against.value(), settings.budget)
        files = bundle_files(
            cache,
            program=program,
            artifacts=own,
            calibration=calibration,
            data=evaluation,
            floats=floats,
            rows=rows,
            analysis=item.analysis,
            findings=item.findings,
            target=target,
        )
        made.append((target, files, own))
    return made


@dataclass(frozen=True, kw_only=True)
class _TargetProgram:
    """The program that a target's artifacts are lowered from, and what is known of it before.

    Attributes:
        floats: What the program that was quantized gives for the data that quality is measured on.
        originals: What the model itself gives, where it was pruned or has zeros.
    """

    target: Target
    program: Result[QuantizedProgram]
    floats: Result[Outputs]
    originals: Result[Outputs]
    analysis: Analysis
    findings: Result[Findings]


def _target_program(
    cache: StageCache,
    captured: Result[CapturedProgram],
    calibration: Result[Dataset] | None,
    evaluation: Result[Dataset],
    *,
    target: Target,
    settings: BuildSettings,
) -> _TargetProgram:
    precision = settings.precision
    pruned = pruned_program(
        cache, captured, calibration=calibration, evaluation=evaluation, target=target, settings=settings
    )
    sparse = sparse_program(
        cache, pruned, calibration=calibration, evaluation=evaluation, target=target, settings=settings
    )
    # Patterns of zeros that kernels know, such as two of four, are those of whole layers.
    whole = replace(target, quantization=target.quantization.with_whole_layers)
    in_float = float_program(
        cache,
        sparse.program,
        calibration=calibration,
        target=target if sparse.report is None else whole,
        precision=precision,
    )
    mixed = None
    if settings.budget and calibration is not None:
        mixed = mixed_precision(
            cache,
            in_float,
            calibration=calibration,
            measured=Measured(
                data=evaluation, floats=pruned.originals, emitters=_emitters(settings, [target])
            ),
            target=target,
            budget=settings.budget,
        )
    program = quantized_program(
        cache,
        in_float,
        calibration=calibration,
        target=target,
        precision=precision,
        kept=kept_nodes(cache, mixed),
    )
    analysis = Analysis(
        layers=layer_quality(cache, program=program, in_float=in_float, data=evaluation, target=target),
        costs=layer_costs(cache, program),
        sensitivity=sensitivity(cache, program=program, in_float=in_float, data=evaluation, target=target)
        if settings.sensitivity
        else None,
        mixed_precision=mixed,
        pruning=pruned.report,
        sparsity=None
        if sparse.report is None
        else zeros_found(cache, sparse.report, program=program, in_float=in_float),
    )
    in_float.drop()
    ranged = calibration if precision == "int8" else None
    found = findings(cache, program=program, calibration=ranged, data=evaluation, target=target)
    return _TargetProgram(
        target=target,
        program=program,
        floats=sparse.floats,
        originals=pruned.originals,
        analysis=analysis,
        findings=found,
    )


def _emitters(settings: BuildSettings, targets: Sequence[Target]) -> list[str]:
    """Return the emitters that the targets need, each once."""
    chosen = (target.emit[name] for target in targets for name in settings.formats or target.formats)
    return list(dict.fromkeys(item.emitter for item in chosen))


def _data(
    cache: StageCache, captured: Result[CapturedProgram], settings: BuildSettings
) -> tuple[Result[Dataset] | None, Result[Dataset]]:
    """Return calibration data, and the data to measure on: evaluation, else calibration, else noise."""
    inputs = input_specs_of(captured)
    calibration = None
    if settings.calibration:
        calibration = samples_of(cache, settings.calibration, inputs, after=captured.key)
    if settings.evaluation:
        after = (calibration or captured).key
        return calibration, samples_of(cache, settings.evaluation, inputs, after=after)
    return calibration, calibration or noise(inputs)
