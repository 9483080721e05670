"""Writes the project or module that an app developer drops in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgecompile.artifact import load_bundle
from edgecompile.embedding.platform import load_platform
from edgecompile.embedding.project_folder import write_project
from edgecompile.embedding.subject import read_subject
from edgecompile.errors import ToolMissingError


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """What was written.

    Attributes:
        files: The paths of all files in the folder, sorted.
    """

    folder: Path
    platform: str
    name: str
    format: str
    sha256: str
    files: tuple[str, ...]


def embed(
    bundle_path: Path,
    platform_name: str,
    folder: Path,
    *,
    format_name: str | None = None,
    force: bool = False,
) -> Embedded:
    """Write a project for a platform from a bundle.

    Raises:
        UnknownPlatformError: There is no such platform.
        NotABundleError: There is no bundle.
        ToolMissingError: What fills templates is not installed.
        EdgecompileError: What `read_subject` and `write_project` raise.
    """
    platform = load_platform(platform_name)
    try:
        import jinja2  # noqa: F401
    except ImportError as error:
        raise ToolMissingError(
            f"`edgecompile embed` needs {error.name}, which is not installed",
            hint="pip install 'edgecompile[embed]'",
        ) from error
    subject = read_subject(load_bundle(bundle_path), platform, platform_name, format_name)
    contents = platform.project(subject)
    write_project(folder, platform_name, contents, force=force)
    return Embedded(
        folder=folder,
        platform=platform_name,
        name=subject.name,
        format=subject.artifact.format,
        sha256=subject.artifact.sha256,
        files=tuple(sorted(contents)),
    )
