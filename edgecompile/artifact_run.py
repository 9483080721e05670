"""Ways to run an artifact on samples: in its engine's Python runtime, or in a native runner somewhere."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from edgecompile.artifact import sha256
from edgecompile.connection import Connection
from edgecompile.dynamic_size import signature_of_shapes
from edgecompile.engine import load_engine
from edgecompile.run_artifact import run_artifact

Inputs = tuple[torch.Tensor, ...]

_SAMPLE_SECONDS = 300.0  # an emulated inference in FP32 takes up to a minute on a busy machine


@dataclass(frozen=True, kw_only=True)
class ArtifactRun:
    """One artifact in one place.

    Attributes:
        name: The row's name: "pte", or "pte on emulator (cortex-a76)".
        format: Of the artifact.
        engine: What executes it.
        native: Whether it runs in a native runner, not in Python.
        run: Gives one tuple of outputs for each tuple of inputs, in order.
    """

    name: str
    format: str
    engine: str
    native: bool
    run: Callable[[Iterable[Inputs]], Iterator[Inputs]]


Place = Callable[[str, str, bytes], ArtifactRun]
"""Takes an artifact's format, its engine and its bytes there."""


def in_python(artifact_format: str, engine: str, data: bytes, *, precise: bool) -> ArtifactRun:
    """Run in the engine's Python runtime, in this process, one sample after another."""

    def run(samples: Iterable[Inputs]) -> Iterator[Inputs]:
        session = load_engine(engine).load(data, precise=precise)
        return (session.run(inputs) for inputs in samples)

    return ArtifactRun(name=artifact_format, format=artifact_format, engine=engine, native=False, run=run)


def over_connection(
    artifact_format: str, engine: str, data: bytes, *, connection: Connection, precise: bool
) -> ArtifactRun:
    """Run in the engine's native runner, where the connection leads: all samples of one size at once."""

    def run(samples: Iterable[Inputs]) -> Iterator[Inputs]:
        given = list(samples)
        outputs: list[Inputs] = [()] * len(given)
        for places in _places_by_size(given):
            found = run_alike([given[place] for place in places])
            for place, output in zip(places, found, strict=True):
                outputs[place] = output
        return iter(outputs)

    def run_alike(given: list[Inputs]) -> Sequence[Inputs]:
        own_form = load_engine(engine).precise_form(data) if precise else data
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"model.{artifact_format}"
            file.write_bytes(own_form)
            measured = run_artifact(
                file,
                sha256(own_form),
                given,
                connection,
                engine=engine,
                precise=precise,
                warmup=0,
                iterations=0,
                timeout_seconds=_SAMPLE_SECONDS * max(len(given), 1),
            )
        return measured.outputs

    return ArtifactRun(
        name=f"{artifact_format} on {connection.description}",
        format=artifact_format,
        engine=engine,
        native=True,
        run=run,
    )


def _places_by_size(samples: Sequence[Inputs]) -> list[list[int]]:
    """Return which samples have equal shapes: the runner's report tells one shape for each output."""
    places: dict[tuple[tuple[int, ...], ...], list[int]] = {}
    for index, sample in enumerate(samples):
        places.setdefault(signature_of_shapes(sample), []).append(index)
    return list(places.values())
