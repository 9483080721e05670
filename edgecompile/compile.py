"""The whole flow: MODEL and settings in, one bundle for each target out."""

from __future__ import annotations

from dataclasses import replace

from edgecompile.artifact import Bundle, Emitted
from edgecompile.artifact_run import in_python
from edgecompile.bundle_writer import write_bundle
from edgecompile.capture import capture, load_model
from edgecompile.dataset import Dataset, load_dataset, spread
from edgecompile.emitter import load_emitter
from edgecompile.errors import CalibrationRequiredError
from edgecompile.evaluate import evaluate, needs_precise_host, run_float
from edgecompile.graph_pass import run_passes
from edgecompile.program import CapturedProgram, Precision, QuantizedProgram
from edgecompile.progress import Progress, QuietProgress
from edgecompile.quantize.static_int8 import keep_float, quantize
from edgecompile.report import Report
from edgecompile.settings import BuildSettings
from edgecompile.signature import input_specs, random_dataset
from edgecompile.target import Target, load_target


def build(settings: BuildSettings, progress: Progress | None = None) -> tuple[Bundle, ...]:
    """Compile a model for each target, and write the bundles.

    Raises:
        EdgecompileError: One class a case; earlier bundles in the output folder are kept.
    """
    progress = progress or QuietProgress()
    source = load_model(settings.model)
    progress.start("capture")
    captured = capture(source, dynamic_batch=settings.dynamic_batch)
    progress.finish(f"{len(captured.exported.graph.nodes)} nodes")
    calibration, evaluation = _load_data(captured, settings)
    return tuple(
        _build_target(
            captured,
            load_target(name),
            calibration=calibration,
            evaluation=evaluation,
            settings=settings,
            progress=progress,
        )
        for name in settings.targets
    )


def _build_target(
    captured: CapturedProgram,
    target: Target,
    *,
    calibration: Dataset | None,
    evaluation: Dataset,
    settings: BuildSettings,
    progress: Progress,
) -> Bundle:
    progress.start(f"passes for {target.name}")
    rewritten = run_passes(captured, [entry.name for entry in target.passes])
    progress.finish(f"{len(rewritten.exported.graph.nodes)} nodes")

    quantized = _quantize(rewritten, calibration, target, settings.precision, progress)
    emitted = [_emit(quantized, target, name, progress) for name in settings.formats or target.formats]

    samples = evaluation.samples
    float_outputs = run_float(captured.exported, samples)
    precise = needs_precise_host(target)
    runs = [in_python(item.format, item.engine, item.data, precise=precise) for item in emitted]
    quality = evaluate(
        quantized.exported,
        runs,
        samples,
        float_outputs,
        settings=target.validation,
        progress=progress,
    )
    report = Report(
        program=quantized,
        target=target.name,
        emitted=tuple(emitted),
        quality=quality,
        samples=len(samples),
        data=evaluation.spec,
    )
    progress.start("write")
    bundle = write_bundle(
        settings,
        target,
        program=quantized,
        emitted=emitted,
        data=evaluation,
        float_outputs=float_outputs,
        report=report,
    )
    progress.finish(str(bundle.path))
    return bundle


def _load_data(captured: CapturedProgram, settings: BuildSettings) -> tuple[Dataset | None, Dataset]:
    """Return calibration data, and the data to measure on: evaluation, else calibration, else noise."""
    specs = input_specs(captured.exported)
    calibration = load_dataset(settings.calibration, specs) if settings.calibration else None
    if settings.evaluation:
        return calibration, load_dataset(settings.evaluation, specs)
    return calibration, calibration or random_dataset(specs)


def _quantize(
    program: CapturedProgram,
    calibration: Dataset | None,
    target: Target,
    precision: Precision,
    progress: Progress,
) -> QuantizedProgram:
    if precision == "fp32":
        return keep_float(program)
    if calibration is None:
        raise CalibrationRequiredError("INT8 needs calibration data")
    samples = spread(calibration.samples, target.quantization.calibration_samples)
    return quantize(program, replace(calibration, samples=tuple(samples)), target.quantization, progress)


def _emit(program: QuantizedProgram, target: Target, format_name: str, progress: Progress) -> Emitted:
    settings = target.emit[format_name]
    progress.start(f"emit {format_name}")
    emitted = load_emitter(settings.emitter).emit(program, settings)
    progress.finish(f"{len(emitted.data) / 1e6:.2f} MB")
    return emitted
