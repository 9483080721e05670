"""Artifacts, kept by the program and the settings that they were lowered with."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecompile.artifact import Emitted
from edgecompile.cache import digest
from edgecompile.emitter import load_emitter
from edgecompile.program import Declined, QuantizedProgram
from edgecompile.stage_cache import HashedFile, Result, StageCache
from edgecompile.stages.reads import tools
from edgecompile.target import EmitSettings


class KeptArtifact:
    """Keeps an artifact's bytes as they ship."""

    name = "emit"

    def write(self, value: Emitted, file: HashedFile) -> dict[str, Any]:
        """Write the bytes; the rest is in the summary."""
        file.write(value.data)
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        del fields["data"]
        return fields | {"declined": [dataclasses.asdict(row) for row in value.declined]}

    def read(self, path: Path, summary: dict[str, Any]) -> Emitted:
        """Return the artifact."""
        declined = tuple(Declined(**row) for row in summary["declined"])
        return Emitted(**summary | {"declined": declined, "data": path.read_bytes()})

    def can_keep(self, value: Emitted) -> bool:
        """Artifacts can always be kept."""
        return True


@dataclass(frozen=True, kw_only=True)
class Lowering:
    """One artifact that is wanted: what is lowered, to which format, and how."""

    program: Result[QuantizedProgram]
    format: str
    settings: EmitSettings

    @property
    def key(self) -> str:
        """The digest of all that the artifact depends on: targets that want the same share it."""
        settings = json.dumps(dataclasses.asdict(self.settings))
        return digest("emit", self.program.digest, self.format, settings, tools())


def emitted(cache: StageCache, lowering: Lowering, *, is_new: bool = False) -> Result[Emitted]:
    """Return an artifact, lowered in this process where it must be.

    Args:
        cache: Has the program, and perhaps the artifact.
        lowering: What is wanted.
        is_new: Another process has made it for this build just now.

    Raises:
        LoweringFailedError: The format cannot express the program.
    """

    def make() -> Emitted:
        cache.progress.start(f"emit {lowering.format}")
        settings = lowering.settings
        made = load_emitter(settings.emitter).emit(lowering.program.value(), settings)
        cache.progress.finish(f"{len(made.data) / 1e6:.2f} MB")
        return made

    label = "" if is_new else f"emit {lowering.format}"
    return cache.result(KeptArtifact(), lowering.key, make, label)
