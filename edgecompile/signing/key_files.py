"""The files of Ed25519 keys (RFC 8032): PEM with PKCS#8, or SubjectPublicKeyInfo."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from edgecompile.errors import InvalidKeyError, OutputNotWritableError
from edgecompile.signing.regular_file import read_regular

PASSPHRASE_VARIABLE = "EDGECOMPILE_KEY_PASSPHRASE"

_LIMIT_BYTES = 16 * 1024
_PRIVATE_MODE, _PUBLIC_MODE = 0o600, 0o644


def key_id(key: Ed25519PublicKey) -> str:
    """Return the SHA-256 of a public key's 32 raw bytes, in hexadecimal."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()


def load_public_key(path: Path) -> Ed25519PublicKey:
    """Read a public key.

    Raises:
        InvalidKeyError: The file cannot be read, or is not an Ed25519 public key in PEM.
    """
    data = _read(path)
    if b"PRIVATE KEY" in data:
        raise InvalidKeyError(
            "this is a private key, which belongs to the one who signs only",
            where=str(path),
            expected="a public key",
            hint="`openssl pkey -in FILE -pubout` writes the public key of a private one",
        )
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidKeyError(
            "this is no public key", where=str(path), expected="an Ed25519 public key in PEM"
        ) from error
    if not isinstance(key, Ed25519PublicKey):
        raise _other_kind(path, key)
    return key


def load_private_key(path: Path, passphrase: Callable[[], bytes | None]) -> Ed25519PrivateKey:
    """Read a private key.

    Args:
        path: The file.
        passphrase: Is asked for the passphrase of an encrypted key; None where there is none to be had.

    Raises:
        InvalidKeyError: The file cannot be read, is not an Ed25519 private key in PEM, or its passphrase
            is missing or wrong.
    """
    data = _read(path)
    secret: bytes | None = None
    if b"BEGIN ENCRYPTED PRIVATE KEY" in data:
        secret = passphrase()
        if not secret:
            raise InvalidKeyError(
                "the private key needs a passphrase",
                where=str(path),
                hint=f"set {PASSPHRASE_VARIABLE}, or sign on a terminal",
            )
    try:
        key = load_pem_private_key(data, secret)
    # TypeError: encrypted in another way than PKCS#8, so that no passphrase was asked for.
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidKeyError(
            "the passphrase is wrong, or the key damaged" if secret else "this is no private key",
            where=str(path),
            expected="an Ed25519 private key in PEM (PKCS#8)",
            hint="`edgecompile keygen FILE` makes one",
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _other_kind(path, key)
    return key


def write_key_pair(private: Path, public: Path, passphrase: bytes | None) -> Ed25519PublicKey:
    """Make a new key and write it to two files, which only the owner may read and all may read.

    Args:
        private: Where the private key goes.
        public: Where the public key goes.
        passphrase: Encrypts the private key; None leaves it readable.

    Raises:
        OutputNotWritableError: A file is there already, or cannot be written.
    """
    key = Ed25519PrivateKey.generate()
    protection = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    _write_new(private, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection), _PRIVATE_MODE)
    text = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    try:
        _write_new(public, text, _PUBLIC_MODE)
    except OutputNotWritableError:
        private.unlink()  # a key without its public part is of no use to anybody
        raise
    return key.public_key()


def _read(path: Path) -> bytes:
    try:
        return read_regular(path, _LIMIT_BYTES, follow=True)
    except OSError as error:
        raise InvalidKeyError(f"the key cannot be read: {error.strerror}", where=str(path)) from error


def _write_new(path: Path, data: bytes, mode: int) -> None:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
    except FileExistsError as error:
        raise OutputNotWritableError(
            "there is a file already, and a key is never overwritten", where=str(path)
        ) from error
    except OSError as error:
        raise OutputNotWritableError(
            f"the key cannot be written: {error.strerror}", where=str(path)
        ) from error


def _other_kind(path: Path, key: object) -> InvalidKeyError:
    kind = type(key).__name__.removesuffix("PrivateKey").removesuffix("PublicKey")
    return InvalidKeyError("the key is of another kind", where=str(path), expected="Ed25519", found=kind)
