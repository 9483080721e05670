"""An artifact encrypted at rest with AES-256-GCM (NIST SP 800-38D), in a small container.

All before the ciphertext is authenticated with it. docs/signing.md is the specification, for wrappers in
other languages::

    offset   bytes   what
    0        8       "EDGEAES1", the magic with the version
    8        12      nonce, random
    20       32      SHA-256 of the artifact
    52       1       length N of the name, 1 to 255
    53       N       the artifact's file name, UTF-8
    53 + N   M       ciphertext, as long as the artifact
    the end  16      tag
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from edgecompile.artifact import load_bundle
from edgecompile.errors import DecryptionFailedError, InvalidKeyError, UnknownFormatError, UsageError
from edgecompile.signing.regular_file import read_regular

MAGIC = b"EDGEAES1"
KEY_BYTES = 32
_NONCE_BYTES = 12
_HASH_BYTES = 32
_TAG_BYTES = 16
_NONCE_END = len(MAGIC) + _NONCE_BYTES
_HASH_END = _NONCE_END + _HASH_BYTES
_LIMIT_BYTES = 2**31 - 1  # of one message, in the library


@dataclass(frozen=True, kw_only=True)
class PlainArtifact:
    """An artifact out of its container.

    Attributes:
        name: Its file name in the bundle; no path.
        sha256: Of `data`, in hexadecimal: what the bundle's manifest lists.
    """

    name: str
    sha256: str
    data: bytes


def load_key(path: Path) -> bytes:
    """Read a key of AES-256.

    Raises:
        InvalidKeyError: The file cannot be read, or has not 32 bytes.
    """
    expected = f"{KEY_BYTES} random bytes, and nothing else"
    try:
        key = read_regular(path, KEY_BYTES, follow=True)
    except OSError as error:
        raise InvalidKeyError(
            f"the key cannot be read: {error.strerror}", where=str(path), expected=expected
        ) from error
    if len(key) != KEY_BYTES:
        raise InvalidKeyError(
            "the key has not the right size",
            where=str(path),
            expected=expected,
            found=f"{len(key)} bytes",
            hint=f"`openssl rand -out FILE {KEY_BYTES}` makes one",
        )
    return key


def encrypt_from_bundle(path: Path, artifact_format: str, key: bytes) -> bytes:
    """Return the container of a bundle's artifact.

    Raises:
        NotABundleError: `path` is no bundle.
        UnknownFormatError: The bundle has no artifact of that format.
        AlteredFileError: The artifact is not the one that was built.
    """
    bundle = load_bundle(path)
    by_format = {item.format: item for item in bundle.artifacts}
    artifact = by_format.get(artifact_format)
    if artifact is None:
        raise UnknownFormatError(artifact_format, sorted(by_format), where=str(path))
    return encrypt(PurePosixPath(artifact.path).name, bundle.read(artifact.path), key)


def encrypt(name: str, data: bytes, key: bytes) -> bytes:
    """Return a container; every call draws a new nonce.

    Args:
        name: The artifact's file name, up to 255 bytes in UTF-8.
        data: The artifact.
        key: 32 bytes.

    Raises:
        UsageError: The name is too long, or the artifact larger than 2 GiB.
    """
    encoded = name.encode()
    if not 1 <= len(encoded) <= 255:
        raise UsageError("the artifact's name does not fit", expected="1 to 255 bytes in UTF-8", found=name)
    if len(data) > _LIMIT_BYTES:
        raise UsageError(
            "the artifact is too large to be encrypted in one piece",
            expected=f"at most {_LIMIT_BYTES} bytes",
            found=f"{len(data)} bytes",
        )
    nonce = os.urandom(_NONCE_BYTES)
    header = MAGIC + nonce + hashlib.sha256(data).digest() + bytes([len(encoded)]) + encoded
    return header + AESGCM(key).encrypt(nonce, data, header)


def read_container(path: Path) -> bytes:
    """Return an encrypted file.

    Raises:
        DecryptionFailedError: It cannot be read.
    """
    try:
        return read_regular(path, _LIMIT_BYTES + _HASH_END + 256 + _TAG_BYTES, follow=True)
    except OSError as error:
        raise DecryptionFailedError(f"the file cannot be read: {error.strerror}", where=str(path)) from error


def decrypt(container: bytes, key: bytes, where: str) -> PlainArtifact:
    """Return the artifact that a container holds.

    Args:
        container: The file.
        key: 32 bytes.
        where: The file, as an error names it.

    Raises:
        DecryptionFailedError: It is no container, was altered, or is of another key.
    """
    if container[: len(MAGIC)] != MAGIC:
        raise DecryptionFailedError(
            "this is no encrypted artifact",
            where=where,
            expected=f"a file that begins with {MAGIC!r}",
            found=repr(container[: len(MAGIC)]),
        )
    header_end = _HASH_END + 1 + (container[_HASH_END] if len(container) > _HASH_END else 0)
    header, sealed = container[:header_end], container[header_end:]
    if len(sealed) < _TAG_BYTES:
        raise DecryptionFailedError(
            "the encrypted artifact is cut off", where=where, found=f"{len(container)} bytes"
        )
    try:
        data = AESGCM(key).decrypt(container[len(MAGIC) : _NONCE_END], sealed, header)
        name = header[_HASH_END + 1 :].decode()
    except (InvalidTag, UnicodeDecodeError) as error:
        raise DecryptionFailedError(
            "the encrypted artifact was altered, or needs another key", where=where
        ) from error
    # GCM does not commit to its key: for two keys chosen so, one container can hold two artifacts.
    sha256 = hashlib.sha256(data)
    if sha256.digest() != header[_NONCE_END:_HASH_END]:
        raise DecryptionFailedError("the artifact is not the one that its container names", where=where)
    return PlainArtifact(name=name, sha256=sha256.hexdigest(), data=data)
