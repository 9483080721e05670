"""The folder of a project: written aside and renamed, and marked, so that nothing else is ever replaced."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import with_config

from edgecompile import __version__
from edgecompile.artifact import sha256
from edgecompile.bundle_writer import replaced_folder
from edgecompile.errors import FolderNotEmptyError, OutputNotWritableError
from edgecompile.strict_toml import STRICT, parse

MARK = ".edgecompile-embed.json"


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Mark:
    """What `embed` wrote to a folder: the SHA-256 of each file, by its path."""

    schema_version: Literal[1]
    edgecompile_version: str
    platform: str
    files: dict[str, str]


def write_project(final: Path, platform: str, contents: Mapping[str, bytes], *, force: bool) -> None:
    """Write a project.

    Args:
        final: Its folder; absent, empty, or with `force` any: what `embed` did not write there stays.
        platform: For the mark.
        contents: The bytes of each file, by its path.
        force: Replace what `embed` wrote before.

    Raises:
        FolderNotEmptyError: It holds something, and `force` is not given; or a file that `embed` did not
            write, or that was edited since, is in the way.
        OutputNotWritableError: It cannot be written.
        DiskFullError: The disk filled up; what was there is kept.
    """
    final = final.resolve()
    mark = Mark(
        schema_version=1,
        edgecompile_version=__version__,
        platform=platform,
        files={name: sha256(data) for name, data in sorted(contents.items())},
    )
    marked = json.dumps(mark.__dict__, indent=1).encode() + b"\n"
    with replaced_folder(final, lambda folder: _check(folder, contents, force=force)) as aside:
        if final.exists():
            _keep_others(final, aside)
        for name, data in {**contents, MARK: marked}.items():
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            (aside / name).write_bytes(data)


def _check(folder: Path, contents: Mapping[str, bytes], *, force: bool) -> None:
    """Check that nothing is lost.

    Raises:
        FolderNotEmptyError: Something would be.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputNotWritableError(
            "a file is in the way of the project", where=str(folder), hint="say a folder"
        )
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not force:
        raise FolderNotEmptyError(
            "the folder is not empty",
            where=str(folder),
            hint="say another, or --force to replace what `edgecompile embed` wrote there, and nothing else",
        )
    written = _written(folder)
    for name in sorted({*contents, *written}):
        path = folder / name
        in_the_way = path.exists() or path.is_symlink()
        if in_the_way and (not path.is_file() or sha256(path.read_bytes()) != written.get(name)):
            raise FolderNotEmptyError(
                "a file was edited since it was written" if name in written else "a file is in the way",
                where=str(path),
                hint="move it away, or embed into another folder",
            )


def _written(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of what `embed` wrote to a folder, by path; nothing where it never did."""
    path = folder / MARK
    if not path.exists():
        return {}
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise FolderNotEmptyError(
            "what `edgecompile embed` wrote here cannot be told",
            where=str(path),
            found=str(error),
            hint="embed into another folder",
        ) from error
    mark = parse(Mark, data if isinstance(data, dict) else {}, FolderNotEmptyError, lambda _: path)
    outside = [name for name in mark.files if PurePosixPath(name).is_absolute() or ".." in name.split("/")]
    if outside:
        raise FolderNotEmptyError("the mark names a file elsewhere", where=str(path), found=outside[0])
    return mark.files


def _keep_others(final: Path, aside: Path) -> None:
    """Copy what `embed` did not write; folders that then are empty go as well."""
    written = {*_written(final), MARK}
    for path in sorted(final.rglob("*")):
        name = path.relative_to(final).as_posix()
        if path.is_symlink() or (path.is_file() and name not in written):
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, aside / name, follow_symlinks=False)
