"""The model as captured: kept while nothing that the model's function read has changed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecompile.cache import digest
from edgecompile.dataset import TensorSpec
from edgecompile.dynamic_size import DynamicSize
from edgecompile.program import CapturedProgram, StepRecord, step_from_dict
from edgecompile.recording import recording
from edgecompile.stage_cache import HashedFile, Result, StageCache
from edgecompile.stages.reads import remember, remembered, tools

if TYPE_CHECKING:
    from edgecompile.settings import BuildSettings


class Captured:
    """Keeps a captured program."""

    name = "capture"

    def write(self, value: CapturedProgram, file: HashedFile) -> dict[str, Any]:
        """Write the program; the summary has the times, and what is asked of data and pipeline."""
        from edgecompile.program_entry import program_text
        from edgecompile.quantize.layers import constants_of
        from edgecompile.signature import input_specs, output_specs
        from edgecompile.tensor_file import write_tensors

        text = json.dumps({"name": value.name, "program": program_text(value.exported)})
        write_tensors(file, constants_of(value.exported), text)
        return {
            "steps": [dataclasses.asdict(step) for step in value.steps],
            "inputs": [dataclasses.asdict(spec) for spec in input_specs(value.exported)],
            "outputs": [dataclasses.asdict(spec) for spec in output_specs(value.exported)],
        }

    def read(self, path: Path, summary: dict[str, Any]) -> CapturedProgram:
        """Return the program."""
        from edgecompile.program_entry import read_program
        from edgecompile.tensor_file import read_tensors

        constants, text = read_tensors(path)
        document = json.loads(text)
        return CapturedProgram(
            name=document["name"],
            exported=read_program(document["program"], constants),
            steps=steps_of(summary),
        )

    def can_keep(self, value: CapturedProgram) -> bool:
        """Tell whether the program's dynamic sizes are those that can be read back."""
        from edgecompile.program_entry import can_keep

        return can_keep(value.exported)


def steps_of(summary: dict[str, Any]) -> tuple[StepRecord, ...]:
    """Return the steps that a summary holds."""
    return tuple(step_from_dict(step) for step in summary["steps"])


def captured_program(cache: StageCache, settings: BuildSettings) -> Result[CapturedProgram]:
    """Return the captured model; its function runs where something that it read has changed.

    Raises:
        EdgecompileError: The model's function fails, or the model cannot be captured.
    """
    where = Path(settings.model).resolve() if settings.model.endswith(".pt2") else Path.cwd()
    own_key = digest(
        "model", str(where), settings.model, str(settings.dynamic_batch), str(settings.dynamic), tools()
    )

    def make() -> CapturedProgram:
        from edgecompile.capture import capture, load_model

        source = load_model(settings.model)
        cache.progress.start("capture")
        program = capture(source, dynamic_batch=settings.dynamic_batch, dynamic=settings.dynamic)
        cache.progress.finish(f"{len(program.exported.graph.nodes)} nodes")
        return program

    with cache.alone("reads", own_key):
        known = remembered(cache, own_key)
        if known is not None:
            return cache.result(Captured(), known["key"], make, "capture")
        if cache.planned is not None:
            cache.planned.append(("capture", False))
            return cache.unknown("capture", own_key)
        import edgecompile.capture  # noqa: F401  what torch reads when it is imported is not the model's

        with recording() as record:
            program = make()
        reads = record.reads()
        if reads.unseen:
            cache.progress.note(f"the model is captured anew in every build: {reads.unseen}")
            return cache.unkept(Captured(), program)
        key = digest(own_key, reads.to_json())
        remember(cache, own_key, reads, {"key": key})
        return cache.add(Captured(), key, program, make)


def input_specs_of(captured: Result[CapturedProgram]) -> tuple[TensorSpec, ...]:
    """Return what a sample must hold, without reading the program."""
    return _specs(captured, "inputs")


def output_specs_of(captured: Result[CapturedProgram]) -> tuple[TensorSpec, ...]:
    """Return what the model gives, without reading the program."""
    return _specs(captured, "outputs")


def _specs(captured: Result[CapturedProgram], kind: str) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            name=spec["name"],
            shape=tuple(spec["shape"]),
            dtype=spec["dtype"],
            dynamic=tuple(DynamicSize(**size) for size in spec["dynamic"]),
        )
        for spec in captured.summary.get(kind, ())
    )
