"""What a benchmark compares: the artifacts of some bundles that run in one place."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgecompile.artifact import Artifact
from edgecompile.connection import Connection
from edgecompile.dataset import Sample
from edgecompile.engine_libraries import runs_on
from edgecompile.errors import EngineLibrariesMissingError, UnknownFormatError
from edgecompile.goldens import read_goldens
from edgecompile.measurement import Measurement
from edgecompile.program import Precision
from edgecompile.progress import Progress
from edgecompile.run_artifact import run_artifact
from edgecompile.runner_build import built_runner
from edgecompile.trusted_bundle import open_bundle


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How an engine runs.

    Attributes:
        cpus: The CPUs that it may run on; all, if empty.
    """

    threads: int = 1
    cpus: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One artifact of one bundle, with the bundle's first golden input.

    Attributes:
        label: Its path, less what all bundles' paths begin with; no two are alike, even of one bundle
            given twice.
    """

    label: str
    bundle: Path
    artifact: Artifact
    precision: Precision
    sample: Sample

    def run(
        self,
        connection: Connection,
        options: EngineOptions,
        *,
        warmup: int = 1,
        iterations: int = 0,
        seconds: float | None = None,
        trace: Path | None = None,
    ) -> Measurement:
        """Run it once; `run_artifact` says how, and what it raises."""
        return run_artifact(
            self.bundle / self.artifact.path,
            self.artifact.sha256,
            [self.sample.inputs],
            connection,
            engine=self.artifact.engine,
            threads=options.threads,
            cpus=options.cpus,
            warmup=warmup,
            iterations=iterations,
            seconds=seconds,
            trace=trace,
        )


def find_contenders(
    bundles: Sequence[Path],
    formats: Sequence[str],
    connection: Connection,
    progress: Progress,
    public_keys: Sequence[Path] = (),
) -> tuple[tuple[Contender, ...], tuple[str, ...]]:
    """Return the artifacts that can run there, with their runners built, and why others cannot.

    Args:
        bundles: One bundle may be given twice.
        formats: Those that are wanted; all, if empty.
        connection: Where they are to run.
        progress: Is told of the runners that must be built first.
        public_keys: Files of public keys, one of which must have signed each bundle; `open_bundle` says more.

    Raises:
        NotABundleError: A path is no bundle.
        AlteredFileError: A file is not the one that was built.
        SignatureMissingError: A bundle must be signed, and is not.
        SignatureInvalidError: None of the keys has signed a bundle as it is.
        UnlistedFileError: A bundle must be signed, and holds what was not.
        UnknownFormatError: No bundle has a wanted format.
        EngineLibrariesMissingError: None of them can run there.
    """
    found, notes = [], []
    known: set[str] = set()
    seen: Counter[str] = Counter()
    common = os.path.commonpath([path.resolve() for path in bundles])
    for path in bundles:
        bundle = open_bundle(path, public_keys)
        samples, _ = read_goldens(bundle)
        known.update(item.format for item in bundle.artifacts)
        for item in bundle.artifacts:
            if formats and item.format not in formats:
                continue
            name = os.path.relpath(path.resolve() / item.path, common)
            if not runs_on(item.engine, connection.platform):
                notes.append(f"{name}: {item.engine} has no native library for {connection.platform}")
                continue
            built_runner(item.engine, connection.platform, progress)
            seen[name] += 1
            found.append(
                Contender(
                    label=name if seen[name] == 1 else f"{name} ({seen[name]})",
                    bundle=path,
                    artifact=item,
                    precision=bundle.manifest.precision,
                    sample=samples[0],
                )
            )
    for wanted in formats:
        if wanted not in known:
            raise UnknownFormatError(wanted, sorted(known), where=", ".join(map(str, bundles)))
    if not found:
        raise EngineLibrariesMissingError(
            f"none of these artifacts can run on {connection.description}", where="\n".join(notes)
        )
    return tuple(found), tuple(dict.fromkeys(notes))
