"""The signature of a bundle: Ed25519 (RFC 8032) over the exact bytes of its manifest.

The manifest holds the SHA-256 of every other file, so that one signature holds them all. docs/signing.md is
the specification, for wrappers in other languages.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import Field, with_config

from edgecompile.artifact import MANIFEST, Bundle, parse_bundle
from edgecompile.errors import (
    ConfigurationErrors,
    InvalidManifestError,
    NotABundleError,
    SignatureInvalidError,
    SignatureMissingError,
)
from edgecompile.signing.key_files import key_id
from edgecompile.signing.listed_files import SIGNATURE, check_listed_files
from edgecompile.signing.regular_file import read_regular
from edgecompile.strict_toml import STRICT, parse
from edgecompile.text_file import write_text

# What is signed begins with this, so that a signature under the same key over anything else, and over a
# later format, is never taken for one of these.
DOMAIN = b"edgecompile bundle signature 1\n"

_MANIFEST_LIMIT_BYTES = 16 * 2**20
_SIGNATURE_LIMIT_BYTES = 4096

_Hex64 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Hex128 = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class BundleSignature:
    """What `signature.json` holds.

    Attributes:
        key_id: Which key made it; says where to look, and proves nothing.
        signature: 64 bytes in hexadecimal, over `DOMAIN` and the manifest's bytes.
    """

    schema_version: Literal[1] = 1
    algorithm: Literal["ed25519"] = "ed25519"
    key_id: _Hex64
    signature: _Hex128

    def text(self) -> str:
        """Return the one form that the file may have."""
        return json.dumps(asdict(self), indent=1) + "\n"


@dataclass(frozen=True, kw_only=True)
class VerifiedBundle:
    """A bundle that is, to the last file, what the owner of a trusted key signed.

    Attributes:
        manifest_text: The bytes that were signed.
    """

    bundle: Bundle
    manifest_text: bytes
    signature: BundleSignature

    @property
    def key_id(self) -> str:
        """Whose key it was."""
        return self.signature.key_id


def sign_bundle(path: Path, key: Ed25519PrivateKey) -> BundleSignature:
    """Sign a bundle that is whole, replacing an earlier signature.

    Raises:
        NotABundleError: There is no manifest.
        InvalidManifestError: The manifest is damaged.
        AlteredFileError: A file is not the one that was built.
        UnlistedFileError: The folder holds what was not built.
        OutputNotWritableError: The signature cannot be written.
    """
    text = _manifest_bytes(path)
    check_listed_files(parse_bundle(path, text))
    signature = BundleSignature(key_id=key_id(key.public_key()), signature=key.sign(DOMAIN + text).hex())
    write_text(path / SIGNATURE, signature.text())
    return signature


def verify_bundle(path: Path, trusted: Sequence[Ed25519PublicKey]) -> VerifiedBundle:
    """Check a bundle's signature, then every file; nothing is parsed or hashed that was not signed.

    Args:
        path: The bundle.
        trusted: One of these keys must have signed it.

    Raises:
        NotABundleError: There is no manifest.
        SignatureMissingError: It is not signed.
        SignatureInvalidError: The signature is damaged, not this manifest's, or of another key.
        InvalidManifestError: What was signed is no manifest that this version knows.
        UnlistedFileError: The folder holds what the manifest does not list.
        AlteredFileError: A file is missing or altered.
    """
    text = _manifest_bytes(path)
    signature = _read_signature(path)
    where = str(path / SIGNATURE)
    keys = {key_id(key): key for key in trusted}
    key = keys.get(signature.key_id)
    if key is None:
        raise SignatureInvalidError(
            "the bundle was signed with a key that is not trusted here",
            where=where,
            expected="\n".join(f"key {known}" for known in keys),
            found=f"key {signature.key_id}",
        )
    try:
        key.verify(bytes.fromhex(signature.signature), DOMAIN + text)
    except InvalidSignature as error:
        raise SignatureInvalidError(
            "the signature is not that of this manifest: one of the two was altered",
            where=where,
            hint="copy the bundle again; one that was built again must be signed again",
        ) from error
    bundle = parse_bundle(path, text)
    check_listed_files(bundle)
    return VerifiedBundle(bundle=bundle, manifest_text=text, signature=signature)


def _manifest_bytes(path: Path) -> bytes:
    """Return the manifest, read once: what is verified is what is parsed."""
    file = path / MANIFEST
    try:
        return read_regular(file, _MANIFEST_LIMIT_BYTES)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotABundleError(
            f"'{path}' is not a bundle",
            expected=f"a folder with a {MANIFEST}",
            hint="`edgecompile build` writes one bundle a target, to OUTPUT/<target>/",
        ) from error
    except OSError as error:
        raise InvalidManifestError(
            f"the manifest cannot be read as a plain file: {error.strerror}", where=str(file)
        ) from error


def _read_signature(path: Path) -> BundleSignature:
    file = path / SIGNATURE
    try:
        text = read_regular(file, _SIGNATURE_LIMIT_BYTES)
        data = json.loads(text)
        signature = parse(BundleSignature, data, SignatureInvalidError, lambda _: file)
    except FileNotFoundError as error:
        raise SignatureMissingError(
            "the bundle is not signed",
            where=str(path),
            expected=f"a file {SIGNATURE}",
            hint="`edgecompile sign` signs it",
        ) from error
    except OSError as error:
        raise SignatureInvalidError(
            f"the signature cannot be read as a plain file: {error.strerror}", where=str(file)
        ) from error
    except ConfigurationErrors as several:
        raise several.errors[0] from several
    except (ValueError, RecursionError) as error:
        raise SignatureInvalidError(f"the signature is not JSON: {error}", where=str(file)) from error
    if text != signature.text().encode():
        raise SignatureInvalidError(
            "the signature's file was altered, though it says the same",
            where=str(file),
            expected="the form that `edgecompile sign` writes",
        )
    return signature
