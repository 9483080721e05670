"""Writes the project or module that an app developer drops in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgecompile.artifact import load_bundle
from edgecompile.embedding.platform import load_platform, platform_names
from edgecompile.embedding.project_folder import write_project
from edgecompile.embedding.subject import read_subject
from edgecompile.errors import PlatformSignatureError, ToolMissingError


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """What was written.

    Attributes:
        key_id: Whose signature the wrapper asks for; None where it takes this artifact only.
        files: The paths of all files in the folder, sorted.
    """

    folder: Path
    platform: str
    name: str
    format: str
    sha256: str
    key_id: str | None
    files: tuple[str, ...]


def embed(
    bundle_path: Path,
    platform_name: str,
    folder: Path,
    *,
    format_name: str | None = None,
    public_key: Path | None = None,
    force: bool = False,
) -> Embedded:
    """Write a project for a platform from a bundle.

    Args:
        bundle_path: The bundle.
        platform_name: What the project is for.
        folder: Gets it.
        format_name: Which artifact; None for the platform's first.
        public_key: The file of a key whose owner must have signed the bundle, and each artifact that the
            wrapper loads; None for a wrapper that takes this artifact only.
        force: Replace what was written to the folder before.

    Raises:
        UnknownPlatformError: There is no such platform.
        PlatformSignatureError: Its wrapper verifies no signatures, and a key is given.
        NotABundleError: There is no bundle.
        ToolMissingError: What fills templates, or verifies signatures, is not installed.
        EdgecompileError: What `open_signed`, `read_subject` and `write_project` raise.
    """
    platform = load_platform(platform_name)
    try:
        import jinja2  # noqa: F401
    except ImportError as error:
        raise ToolMissingError(
            f"`edgecompile embed` needs {error.name}, which is not installed",
            hint="pip install 'edgecompile[embed]'",
        ) from error
    if public_key is None:
        subject = read_subject(load_bundle(bundle_path), platform, platform_name, format_name)
    else:
        if not platform.verifies_signatures:
            raise _unverified(platform_name)
        from edgecompile.embedding.signed_statement import open_signed

        bundle, signed = open_signed(bundle_path, public_key)
        subject = read_subject(bundle, platform, platform_name, format_name, signed)
    contents = platform.project(subject)
    write_project(folder, platform_name, contents, force=force)
    return Embedded(
        folder=folder,
        platform=platform_name,
        name=subject.name,
        format=subject.artifact.format,
        sha256=subject.artifact.sha256,
        key_id=subject.signed.key_id if subject.signed else None,
        files=tuple(sorted(contents)),
    )


def _unverified(platform_name: str) -> PlatformSignatureError:
    able = [name for name in platform_names() if load_platform(name).verifies_signatures]
    return PlatformSignatureError(
        f"the wrapper for the platform {platform_name!r} verifies no signatures",
        expected=", ".join(able),
        found=platform_name,
        hint="without --public-key it refuses all but the artifact that is embedded, by its SHA-256",
    )
