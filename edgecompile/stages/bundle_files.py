"""All files of a bundle but the artifacts and the manifest: the program, the goldens and the report."""

from __future__ import annotations

import dataclasses
import io
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecompile.artifact import CONSTANTS, PROGRAM, Artifact, Emitted, TensorEntry, sha256
from edgecompile.cache import digest
from edgecompile.dataset import Dataset
from edgecompile.dynamic_size import DynamicSize
from edgecompile.program import Declined, Precision, QuantizedProgram
from edgecompile.stage_cache import HashedFile, Result, StageCache
from edgecompile.stages.quality import reference_outputs
from edgecompile.stages.reads import tools

if TYPE_CHECKING:
    from edgecompile.budget import MixedPrecision
    from edgecompile.compare import Outputs
    from edgecompile.evaluate import Quality
    from edgecompile.layer_costs import CostReport
    from edgecompile.layer_quality import LayerReport
    from edgecompile.pruning.pruning_report import PruningReport
    from edgecompile.pruning.sparsity_report import SparseProgram, SparsityReport
    from edgecompile.sensitivity import SensitivityReport
    from edgecompile.stages.findings import Findings
    from edgecompile.target import Target


@dataclass(frozen=True, kw_only=True)
class BundleFiles:
    """What a bundle holds beside its artifacts, and what its manifest says of the model.

    Attributes:
        contents: The bytes of each file, by its path in the bundle.
        goldens: How many golden inputs there are.
    """

    name: str
    precision: Precision
    inputs: tuple[TensorEntry, ...]
    outputs: tuple[TensorEntry, ...]
    goldens: int
    contents: dict[str, bytes]


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What is known of a program's layers.

    Attributes:
        layers: How good each is.
        costs: What each costs.
        sensitivity: What the rounding of each costs; None where it was not asked for.
        mixed_precision: What stays in float so that a budget holds; None where there is none.
        pruning: What was removed; None where nothing is.
        sparsity: What was zeroed; None where nothing is.
    """

    layers: Result[LayerReport]
    costs: Result[CostReport]
    sensitivity: Result[SensitivityReport] | None
    mixed_precision: Result[MixedPrecision] | None
    pruning: Result[PruningReport] | None
    sparsity: Result[SparseProgram] | None

    @property
    def digests(self) -> tuple[str, ...]:
        """What each is, in hexadecimal digits; "" where it is not there."""
        parts = (
            *(self.layers, self.costs, self.sensitivity),
            *(self.mixed_precision, self.pruning, self.sparsity),
        )
        return tuple("" if part is None else part.digest for part in parts)


class KeptFiles:
    """Keeps the files in one archive, with their hashes in the summary."""

    name = "bundle"

    def write(self, value: BundleFiles, file: HashedFile) -> dict[str, Any]:
        """Write an archive without compression or times."""
        with zipfile.ZipFile(file, "w") as archive:
            for name, data in value.contents.items():
                archive.writestr(zipfile.ZipInfo(name), data)
        return {
            "name": value.name,
            "precision": value.precision,
            "inputs": [dataclasses.asdict(entry) for entry in value.inputs],
            "outputs": [dataclasses.asdict(entry) for entry in value.outputs],
            "goldens": value.goldens,
            "files": {name: sha256(data) for name, data in value.contents.items()},
        }

    def read(self, path: Path, summary: dict[str, Any]) -> BundleFiles:
        """Return the files."""
        with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
            contents = {name: archive.read(name) for name in archive.namelist()}
        return BundleFiles(
            name=summary["name"],
            precision=summary["precision"],
            inputs=tuple(tensor_entry(row) for row in summary["inputs"]),
            outputs=tuple(tensor_entry(row) for row in summary["outputs"]),
            goldens=summary["goldens"],
            contents=contents,
        )

    def can_keep(self, value: BundleFiles) -> bool:
        """Files can always be kept."""
        return True


def tensor_entry(row: dict[str, Any]) -> TensorEntry:
    """Return the entry that `dataclasses.asdict` gave."""
    dynamic = tuple(DynamicSize(**size) for size in row["dynamic"])
    return TensorEntry(**row | {"shape": tuple(row["shape"]), "dynamic": dynamic})


def artifact_of(name: str, item: Result[Emitted]) -> Artifact:
    """Return what the manifest says of an artifact, without reading it."""
    return Artifact(
        format=item.summary["format"],
        engine=item.summary["engine"],
        engine_version=item.summary["engine_version"],
        path=f"{name}.{item.summary['format']}",
        size_bytes=item.size_bytes,
        sha256=item.digest,
        operators=item.summary["operators"],
        delegates=item.summary["delegates"],
    )


def bundle_files(
    cache: StageCache,
    *,
    program: Result[QuantizedProgram],
    artifacts: Sequence[Result[Emitted]],
    calibration: Result[Dataset] | None,
    data: Result[Dataset],
    floats: Result[Outputs],
    rows: Result[tuple[Quality, ...]],
    analysis: Analysis,
    findings: Result[Findings],
    target: Target,
) -> Result[BundleFiles]:
    """Return the files of one target's bundle."""

    def make() -> BundleFiles:
        from edgecompile.goldens import golden_choice, golden_files
        from edgecompile.program_file import constants_to_npz, to_text
        from edgecompile.report import Report
        from edgecompile.signature import inputs_of, outputs_of

        quantized, samples = program.value(), data.value().samples
        cache.progress.start(f"goldens and report of {target.name}")
        report = Report(
            program=quantized,
            target=target.name,
            artifacts=tuple(artifact_of(quantized.name, item) for item in artifacts),
            declined={
                item.summary["format"]: tuple(Declined(**row) for row in item.summary["declined"])
                for item in artifacts
            },
            quality=rows.value(),
            layers=analysis.layers.value(),
            costs=analysis.costs.value(),
            sensitivity=None if analysis.sensitivity is None else analysis.sensitivity.value(),
            mixed_precision=None if analysis.mixed_precision is None else analysis.mixed_precision.value(),
            pruning=None if analysis.pruning is None else analysis.pruning.value(),
            sparsity=None if analysis.sparsity is None else _sparsity(analysis.sparsity.value(), artifacts),
            samples=len(samples),
            data=data.summary["spec"],
            data_sha256=data.digest,
            calibration_sha256=None if calibration is None else calibration.digest,
            findings=findings.value().rows,
            input_ranges=findings.value().input_ranges,
        )
        references = reference_outputs(cache, program, data, ("exact",))["exact"].value()
        triples = list(zip(samples, floats.value(), references, strict=True))
        golden = golden_choice(triples, target.validation.goldens)
        inputs, outputs = inputs_of(quantized.exported), outputs_of(quantized.exported)
        contents = {
            PROGRAM: to_text(quantized.exported).encode(),
            CONSTANTS: constants_to_npz(quantized.exported),
            **golden_files(golden, inputs, outputs),
            "report.txt": report.text().encode(),
            "report.json": report.json().encode(),
        }
        cache.progress.finish(f"{len(golden)} goldens")
        return BundleFiles(
            name=quantized.name,
            precision=quantized.precision,
            inputs=inputs,
            outputs=outputs,
            goldens=len(golden),
            contents=contents,
        )

    key = digest(
        "bundle",
        target.name,
        program.digest,
        *(item.key for item in artifacts),
        data.digest,
        data.summary["spec"],
        "" if calibration is None else calibration.digest,
        rows.digest,
        *analysis.digests,
        findings.digest,
        str(target.validation.goldens),
        tools(),
    )
    return cache.result(KeptFiles(), key, make, f"goldens and report of {target.name}")


def _sparsity(sparse: SparseProgram, artifacts: Sequence[Result[Emitted]]) -> SparsityReport:
    from edgecompile.pruning.sparsity_report import SPARSE_KERNELS, CompressedArtifact, SparsityReport

    rows = []
    for item in artifacts:
        compressed = zlib.compress(item.value().data, 9)
        item.drop()
        rows.append(
            CompressedArtifact(
                format=item.summary["format"],
                engine=item.summary["engine"],
                size_bytes=item.size_bytes,
                compressed_bytes=len(compressed),
                sparse_kernels=SPARSE_KERNELS[item.summary["engine"]],
            )
        )
    return SparsityReport(program=sparse, artifacts=tuple(rows))
