"""Ways to run an artifact on samples: in its engine's Python runtime, or in a native runner somewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgecompile.compare import Outputs
from edgecompile.connection import Connection
from edgecompile.dataset import Sample
from edgecompile.engine import load_engine
from edgecompile.progress import Progress
from edgecompile.run_artifact import run_artifact


@dataclass(frozen=True, kw_only=True)
class ArtifactRun:
    """One artifact in one place.

    Attributes:
        name: The row's name: "pte", or "pte on emulator (cortex-a76)".
        engine: What executes it.
        run: Gives one tuple of outputs a sample.
    """

    name: str
    engine: str
    run: Callable[[Sequence[Sample], Progress], Outputs]


def in_python(artifact_format: str, engine_name: str, data: bytes, *, precise: bool) -> ArtifactRun:
    """Run in the engine's Python runtime, in this process."""

    def run(samples: Sequence[Sample], progress: Progress) -> Outputs:
        session = load_engine(engine_name).load(data, precise=precise)
        outputs = []
        for sample in samples:
            outputs.append(session.run(sample.inputs))
            progress.advance()
        return outputs

    return ArtifactRun(name=artifact_format, engine=engine_name, run=run)


def over_connection(
    artifact_format: str,
    engine_name: str,
    file: Path,
    sha256: str,
    connection: Connection,
    *,
    precise: bool,
) -> ArtifactRun:
    """Run in the engine's native runner, where the connection leads."""

    def run(samples: Sequence[Sample], progress: Progress) -> Outputs:
        measured = run_artifact(
            file,
            sha256,
            [sample.inputs for sample in samples],
            connection,
            engine=engine_name,
            precise=precise,
            warmup=0,
            iterations=0,
        )
        progress.advance(len(samples))
        return measured.outputs

    return ArtifactRun(name=f"{artifact_format} on {connection.description}", engine=engine_name, run=run)
