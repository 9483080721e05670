"""How good the artifacts are: outputs are kept one by one, so that only what is new runs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecompile.artifact import Emitted
from edgecompile.cache import digest
from edgecompile.dataset import Dataset
from edgecompile.program import CapturedProgram, QuantizedProgram
from edgecompile.stage_cache import HashedFile, Result, StageCache
from edgecompile.stages.outputs import KeptOutputs
from edgecompile.stages.reads import tools

if TYPE_CHECKING:
    from edgecompile.compare import Outputs
    from edgecompile.evaluate import Quality, Ran
    from edgecompile.quantize.arithmetic import Arithmetic
    from edgecompile.target import Target


class KeptQuality:
    """Keeps the rows of the report."""

    name = "quality"

    def write(self, value: tuple[Quality, ...], file: HashedFile) -> dict[str, Any]:
        """Write the rows as JSON."""
        file.write(json.dumps([dataclasses.asdict(row) for row in value]).encode())
        return {}

    def read(self, path: Path, summary: dict[str, Any]) -> tuple[Quality, ...]:
        """Return the rows."""
        from edgecompile.evaluate import quality_from_dict

        return tuple(quality_from_dict(row) for row in json.loads(path.read_bytes()))

    def can_keep(self, value: tuple[Quality, ...]) -> bool:
        """Rows can always be kept."""
        return True


def float_outputs(
    cache: StageCache, captured: Result[CapturedProgram], data: Result[Dataset]
) -> Result[Outputs]:
    """Return what the model itself gives for the samples.

    Raises:
        LabelOutOfRangeError: A label is no class of the model.
    """

    def make() -> Outputs:
        from edgecompile.evaluate import check_labels, run_float

        outputs = run_float(captured.value().exported, data.value().samples, cache.progress)
        check_labels(data.value(), outputs)
        return outputs

    key = digest("float", captured.digest, data.digest, tools())
    return cache.result(KeptOutputs(), key, make, "float model")


def reference_outputs(
    cache: StageCache,
    program: Result[QuantizedProgram],
    data: Result[Dataset],
    arithmetics: Sequence[Arithmetic],
) -> dict[Arithmetic, Result[Outputs]]:
    """Return what the integer-exact reference gives in each arithmetic."""
    made: dict[Arithmetic, Outputs] = {}

    def make(arithmetic: Arithmetic) -> Outputs:
        from edgecompile.evaluate import run_references

        if not made:  # they have most in common, and are computed together
            samples = data.value().samples
            made.update(run_references(program.value().exported, samples, arithmetics, cache.progress))
        return made[arithmetic]

    return {
        name: cache.result(
            KeptOutputs(),
            digest("reference", program.digest, data.digest, name, tools()),
            partial(make, name),
        )
        for name in arithmetics
    }


def quality(
    cache: StageCache,
    *,
    program: Result[QuantizedProgram],
    artifacts: Sequence[Result[Emitted]],
    data: Result[Dataset],
    floats: Result[Outputs],
    target: Target,
) -> Result[tuple[Quality, ...]]:
    """Return the report's rows on a target's artifacts.

    Raises:
        EngineFailedError: An engine rejects an artifact.
    """

    def make() -> tuple[Quality, ...]:
        from edgecompile.evaluate import arithmetics_of, quality_rows

        arithmetics = arithmetics_of([str(item.summary["engine"]) for item in artifacts])
        references = {
            name: result.value()
            for name, result in reference_outputs(cache, program, data, arithmetics).items()
        }
        ran = [_ran(cache, item, data, target) for item in artifacts]
        return quality_rows(
            ran,
            references,
            data.value().samples,
            floats.value(),
            precision=program.value().precision,
            settings=target.validation,
        )

    key = digest(
        "quality",
        program.digest,
        data.digest,
        floats.digest,
        target.architecture,
        json.dumps(dataclasses.asdict(target.validation)),
        *(item.key for item in artifacts),
    )
    return cache.result(KeptQuality(), key, make, f"quality of {target.name}")


def _ran(cache: StageCache, artifact: Result[Emitted], data: Result[Dataset], target: Target) -> Ran:
    """Return what an artifact gives in its engine on this host."""
    from edgecompile.artifact_run import in_python
    from edgecompile.evaluate import Ran, needs_precise_host, run_one

    precise = needs_precise_host(target)
    name, engine = str(artifact.summary["format"]), str(artifact.summary["engine"])

    def make() -> Outputs:
        run = in_python(name, engine, artifact.value().data, precise=precise)
        outputs = run_one(run, data.value().samples, cache.progress).outputs
        artifact.drop()
        return outputs

    key = digest("run", artifact.digest, engine, data.digest, str(precise), tools())
    outputs = cache.result(KeptOutputs(), key, make).value()
    return Ran(name=name, format=name, engine=engine, native=False, outputs=outputs)
