"""Writes a bundle aside and renames it, so that a failed build leaves neither half a bundle nor none."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from edgecompile import __version__
from edgecompile.artifact import (
    SCHEMA_VERSION,
    Artifact,
    Bundle,
    Emitted,
    Manifest,
    SettingEntry,
    hashes,
    load_bundle,
    sha256,
    write_manifest,
)
from edgecompile.compare import Outputs
from edgecompile.dataset import Dataset, Sample, spread
from edgecompile.errors import DiskFullError, OutputNotWritableError
from edgecompile.evaluate import run_reference
from edgecompile.program import QuantizedProgram
from edgecompile.program_file import constants_to_npz, to_text
from edgecompile.report import Report
from edgecompile.settings import BuildSettings, check_replaceable
from edgecompile.signature import inputs_of, outputs_of
from edgecompile.target import Target

PROGRAM, CONSTANTS, GOLDENS = "program.json", "program.npz", "goldens"
_TOOLCHAIN = ("torch", "torchao", "executorch", "onnx", "onnxruntime", "onnxscript", "onnxsim", "numpy")


def write_bundle(
    settings: BuildSettings,
    target: Target,
    *,
    program: QuantizedProgram,
    emitted: Sequence[Emitted],
    data: Dataset,
    float_outputs: Outputs,
    report: Report,
) -> Bundle:
    """Write `OUTPUT/<target>/` and return the bundle.

    Args:
        settings: Of the build.
        target: The target that was built.
        program: What the artifacts were lowered from.
        emitted: The artifacts.
        data: The goldens are chosen from these samples.
        float_outputs: The model's own outputs for them.
        report: Is written beside the artifacts.

    Raises:
        OutputNotWritableError: The folder cannot be written, or holds something that is no bundle.
        DiskFullError: The disk filled up; nothing is left behind.
    """
    final = settings.output / target.name
    with replaced_folder(final) as folder:
        artifacts = []
        for item in emitted:
            name = f"{program.name}.{item.format}"
            (folder / name).write_bytes(item.data)
            artifacts.append(_artifact(name, item))
        (folder / PROGRAM).write_text(to_text(program.exported), encoding="utf-8")
        (folder / CONSTANTS).write_bytes(constants_to_npz(program.exported))
        golden_pairs = spread(list(zip(data.samples, float_outputs, strict=True)), target.validation.goldens)
        _write_goldens(folder / GOLDENS, program, golden_pairs)
        (folder / "report.txt").write_text(report.text(), encoding="utf-8")
        (folder / "report.json").write_text(report.json(), encoding="utf-8")
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            edgecompile_version=__version__,
            name=program.name,
            target=target.name,
            precision=program.precision,
            inputs=inputs_of(program.exported),
            outputs=outputs_of(program.exported),
            artifacts=tuple(artifacts),
            goldens=len(golden_pairs),
            files=dict(hashes(folder)),
            toolchain={package: version(package).partition("+")[0] for package in _TOOLCHAIN},
            settings=tuple(
                SettingEntry(name=item.name, value=item.value, origin=item.origin)
                for item in settings.own_settings()
            ),
        )
        write_manifest(folder, manifest)
    return load_bundle(final)


@contextmanager
def replaced_folder(final: Path) -> Iterator[Path]:
    """Give a temporary sibling to write to; rename it to `final` at the end, or remove it on any error."""
    aside = final.with_name(f".{final.name}.{os.getpid()}.partial")
    check_replaceable(final)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)  # of a killed process that had the same number
        aside.mkdir()
        yield aside
        _swap(aside, final)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(
                "the disk is full",
                where=str(final.parent),
                hint="free some space, or choose another folder with --output; an earlier bundle is kept",
            ) from error
        raise OutputNotWritableError(
            f"the output folder cannot be written: {error.strerror or error}",
            where=error.filename or str(final.parent),
            hint="choose another folder with --output",
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _swap(aside: Path, final: Path) -> None:
    # Two renames, for a folder that is not empty cannot be replaced in one; the earlier bundle exists
    # under one of two names throughout.
    earlier = final.with_name(f".{final.name}.{os.getpid()}.earlier")
    try:
        if final.exists():
            final.rename(earlier)
        aside.rename(final)
    finally:
        if earlier.exists() and not final.exists():
            earlier.rename(final)
        shutil.rmtree(earlier, ignore_errors=True)


def _artifact(name: str, item: Emitted) -> Artifact:
    return Artifact(
        format=item.format,
        engine=item.engine,
        engine_version=item.engine_version,
        path=name,
        size_bytes=len(item.data),
        sha256=sha256(item.data),
        operators=item.operators,
        delegates=item.delegates,
    )


def _write_goldens(
    folder: Path, program: QuantizedProgram, pairs: Sequence[tuple[Sample, Sequence[torch.Tensor]]]
) -> None:
    """Write inputs, and outputs of the float model and of the quantized reference, as .npy files."""
    folder.mkdir()
    references = run_reference(program.exported, [sample for sample, _ in pairs], "exact")
    input_names = [entry.name for entry in inputs_of(program.exported)]
    output_names = [entry.name for entry in outputs_of(program.exported)]
    for index, (sample, floats) in enumerate(pairs):
        groups = (
            ("input", input_names, sample.inputs),
            ("float", output_names, floats),
            ("reference", output_names, references[index]),
        )
        for kind, names, tensors in groups:
            for name, tensor in zip(names, tensors, strict=True):
                np.save(folder / golden_name(index, kind, name), tensor.numpy(), allow_pickle=False)


def golden_name(index: int, kind: str, tensor_name: str) -> str:
    """Return a golden's file name: `000-input-x.npy`, `000-float-output.npy`, `000-reference-output.npy`."""
    return f"{index:03d}-{kind}-{tensor_name}.npy"
