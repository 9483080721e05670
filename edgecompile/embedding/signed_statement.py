"""What a wrapper verifies before it reads an artifact: a signed manifest, and whose signature it must be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgecompile.artifact import MANIFEST, Bundle, interface_of
from edgecompile.errors import InvalidManifestError
from edgecompile.signing.bundle_signature import verify_bundle
from edgecompile.signing.key_files import load_public_key
from edgecompile.signing.listed_files import SIGNATURE


@dataclass(frozen=True, kw_only=True)
class SignedStatement:
    """A bundle's manifest with its signature, and what a wrapper has built in to judge another one.

    Attributes:
        files: The bytes of the manifest and the signature, by the names that wrappers look for.
        public_key: 32 bytes in hexadecimal (RFC 8032).
        interface: What the code of the wrapper knows of the model, as the manifest has it.
    """

    files: dict[str, bytes]
    public_key: str
    key_id: str
    interface: str


def open_signed(path: Path, public_key: Path) -> tuple[Bundle, SignedStatement]:
    """Read a bundle that the owner of a key signed, to the last file, and what proves it.

    Raises:
        InvalidKeyError: The public key cannot be read.
        InvalidManifestError: The manifest is damaged, or says of its own interface what is not so.
        EdgecompileError: What `verify_bundle` raises.
    """
    key = load_public_key(public_key)
    verified = verify_bundle(path, [key])
    manifest = verified.bundle.manifest
    if manifest.interface != interface_of(manifest):
        raise InvalidManifestError(
            "the manifest does not say which updates fit the code of an app",
            where=str(path / MANIFEST),
            expected=f"interface {interface_of(manifest)}",
            found=f"interface {manifest.interface}",
            hint="build the bundle again with this version of edgecompile, and sign it",
        )
    statement = SignedStatement(
        files={MANIFEST: verified.manifest_text, SIGNATURE: verified.signature.text().encode()},
        public_key=key.public_bytes_raw().hex(),
        key_id=verified.signature.key_id,
        interface=manifest.interface,
    )
    return verified.bundle, statement
