"""Writes a bundle aside and renames it, so that a failed build leaves neither half a bundle nor none."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path

from edgecompile import __version__
from edgecompile.artifact import (
    SCHEMA_VERSION,
    Bundle,
    Emitted,
    Manifest,
    SettingEntry,
    interface_of,
    load_bundle,
    sha256,
    write_manifest,
)
from edgecompile.errors import DiskFullError, EdgecompileError, InvalidConfigError, OutputNotWritableError
from edgecompile.owned_folder import is_abandoned, locked_folder, owned_folder
from edgecompile.pipeline import LABELS, Pipeline, Tensor, fitted, labels_data
from edgecompile.progress import Progress
from edgecompile.settings import BuildSettings, check_replaceable
from edgecompile.stage_cache import Result
from edgecompile.stages.bundle_files import BundleFiles, artifact_of, tensor_entry
from edgecompile.target import Target

_TOOLCHAIN = ("torch", "torchao", "executorch", "onnx", "onnxruntime", "onnxscript", "onnxsim", "numpy")


def write_bundle(
    settings: BuildSettings,
    target: Target,
    files: Result[BundleFiles],
    artifacts: Sequence[Result[Emitted]],
    progress: Progress,
) -> Bundle:
    """Write `OUTPUT/<target>/` and return the bundle; one that is there already and whole is left alone.

    Raises:
        OutputNotWritableError: The folder cannot be written, or holds something that is no bundle.
        DiskFullError: The disk filled up; nothing is left behind.
    """
    final = settings.output / target.name
    manifest = _manifest(settings, target, files, artifacts)
    existing = _whole_bundle(final, manifest)
    if existing is not None:
        progress.start(f"write {target.name}")
        progress.finish(f"{final} is up to date")
        return existing
    contents = files.value().contents | _label_files(settings)
    progress.start(f"write {target.name}")
    with replaced_folder(final) as folder:
        for entry, item in zip(manifest.artifacts, artifacts, strict=True):
            (folder / entry.path).write_bytes(item.value().data)
            item.drop()
        for name, data in contents.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(data)
        write_manifest(folder, manifest)
    files.drop()
    progress.finish(str(final))
    return load_bundle(final)


def _manifest(
    settings: BuildSettings,
    target: Target,
    files: Result[BundleFiles],
    artifacts: Sequence[Result[Emitted]],
) -> Manifest:
    known = files.summary
    entries = tuple(artifact_of(known["name"], item) for item in artifacts)
    inputs = tuple(tensor_entry(row) for row in known["inputs"])
    outputs = tuple(tensor_entry(row) for row in known["outputs"])
    labels = {name: sha256(data) for name, data in _label_files(settings).items()}
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        edgecompile_version=__version__,
        name=known["name"],
        target=target.name,
        precision=known["precision"],
        inputs=inputs,
        outputs=outputs,
        artifacts=entries,
        goldens=known["goldens"],
        files=dict(
            sorted((known["files"] | labels | {entry.path: entry.sha256 for entry in entries}).items())
        ),
        toolchain={package: version(package).partition("+")[0] for package in _TOOLCHAIN},
        settings=tuple(
            SettingEntry(name=item.name, value=item.value, origin=item.origin)
            for item in settings.own_settings()
        ),
        pipeline=fitted_pipeline(settings, inputs, outputs),
    )
    return dataclasses.replace(manifest, interface=interface_of(manifest))


def fitted_pipeline(
    settings: BuildSettings, inputs: Sequence[Tensor], outputs: Sequence[Tensor]
) -> Pipeline | None:
    """Return the pipeline of a build with everything said; None where there is none.

    Raises:
        InvalidConfigError: It does not fit the model.
        ConfigurationErrors: Several things do not fit.
    """
    if settings.pipeline is None:
        return None
    count = None if settings.labels is None else len(settings.labels)
    where = settings.origins["pipeline"]
    return fitted(
        settings.pipeline, inputs, outputs, label_count=count, error=InvalidConfigError, where=where
    )


def _label_files(settings: BuildSettings) -> dict[str, bytes]:
    return {} if settings.labels is None else {LABELS: labels_data(settings.labels)}


def _whole_bundle(folder: Path, manifest: Manifest) -> Bundle | None:
    """Return the bundle that a folder holds, if it has this manifest and all its files; else None."""
    try:
        bundle = load_bundle(folder)
        if bundle.manifest != manifest:
            return None
        bundle.verify()
    except EdgecompileError:
        return None
    return bundle


@contextmanager
def replaced_folder(final: Path, check: Callable[[Path], None] = check_replaceable) -> Iterator[Path]:
    """Give a temporary sibling to write to; rename it to `final` at the end, or remove it on any error.

    Raises:
        OutputNotWritableError: It cannot be written.
        DiskFullError: The disk filled up; what was there is kept.
        EdgecompileError: What `check` raises for a folder that must not be replaced.
    """
    aside = final.with_name(f".{final.name}.{os.getpid()}.partial")
    check(final)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            with locked_folder(final.parent):
                _clear_up(final)
                stack.enter_context(owned_folder(aside))
            yield aside
            with locked_folder(final.parent):
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


def _clear_up(final: Path) -> None:
    """Remove what killed processes left; the earlier bundle comes back where it is the only one."""
    for earlier in final.parent.glob(f".{final.name}.*.earlier"):
        if final.exists():
            shutil.rmtree(earlier, ignore_errors=True)
        else:
            earlier.rename(final)
    for aside in final.parent.glob(f".{final.name}.*.partial"):
        if is_abandoned(aside):
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
