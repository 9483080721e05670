"""What is encrypted comes back whole with its key; with any other byte or key nothing does."""

from __future__ import annotations

import hashlib
import json
import os

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_bundle import FILES

from edgecompile.errors import DecryptionFailedError, UsageError
from edgecompile.signing.encrypted_artifact import decrypt, encrypt

KEY = bytes(range(32))
MODEL = b"a model " * 9
CONTAINER = encrypt("net.onnx", MODEL, KEY)


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "app.key"
    path.write_bytes(KEY)
    return path


def test_the_command_line_there_and_back(bundle, key_file, tmp_path, cli):
    sealed, plain = tmp_path / "net.enc", tmp_path / "net.onnx"
    encrypting = ["encrypt", bundle, "--format", "onnx", "--key-file", key_file, "-o", sealed]
    status, out, _ = cli(*encrypting, "--json")
    assert (status, json.loads(out)["size_bytes"]) == (0, sealed.stat().st_size)
    assert FILES["net.onnx"][:64] not in sealed.read_bytes()
    status, out, _ = cli("decrypt", sealed, "--key-file", key_file, "-o", plain, "--json")
    assert (status, json.loads(out)["name"]) == (0, "net.onnx")
    assert json.loads(out)["sha256"] == hashlib.sha256(FILES["net.onnx"]).hexdigest()
    assert plain.read_bytes() == FILES["net.onnx"]
    assert "bytes" in cli(*encrypting)[1]
    assert "'net.onnx'" in cli("decrypt", sealed, "--key-file", key_file, "-o", plain)[1]


def test_the_layout_that_is_documented():
    """Taken apart by hand, as a wrapper does it."""
    magic, nonce, digest, length = CONTAINER[:8], CONTAINER[8:20], CONTAINER[20:52], CONTAINER[52]
    header, sealed = CONTAINER[: 53 + length], CONTAINER[53 + length :]
    assert (magic, digest) == (b"EDGEAES1", hashlib.sha256(MODEL).digest())
    assert header[53:] == b"net.onnx"
    assert len(sealed) == len(MODEL) + 16
    assert AESGCM(KEY).decrypt(nonce, sealed, header) == MODEL


def test_the_cipher_is_that_of_nist():
    """Test case 16 of the GCM specification: AES-256 with associated data."""
    key = bytes.fromhex("feffe9928665731c6d6a8f9467308308" * 2)
    plain = "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525"
    plain += "b16aedf5aa0de657ba637b39"
    data = bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2")
    found = AESGCM(key).encrypt(bytes.fromhex("cafebabefacedbaddecaf888"), bytes.fromhex(plain), data)
    expected = (
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838"
    )
    expected += "c5f61e6393ba7a0abcc9f66276fc6ece0f4e1768cddf8853bb2d551b"
    assert found.hex() == expected


def test_no_two_containers_are_alike():
    assert len({encrypt("net.onnx", MODEL, KEY)[8:20] for _ in range(100)}) == 100


@given(
    name=st.text(min_size=1, max_size=60),
    data=st.binary(max_size=300),
    key=st.binary(min_size=32, max_size=32),
)
def test_there_and_back(name, data, key):
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        return
    assert len(encoded) <= 255
    found = decrypt(encrypt(name, data, key), key, "file")
    assert (found.name, found.data, found.sha256) == (name, data, hashlib.sha256(data).hexdigest())


def test_every_bit():
    for position in range(len(CONTAINER)):
        for bit in range(8):
            damaged = bytearray(CONTAINER)
            damaged[position] ^= 1 << bit
            with pytest.raises(DecryptionFailedError):
                decrypt(bytes(damaged), KEY, "file")


def test_every_length():
    for length in range(len(CONTAINER)):
        with pytest.raises(DecryptionFailedError):
            decrypt(CONTAINER[:length], KEY, "file")


@given(data=st.binary(max_size=200))
def test_whatever_comes(data):
    for container in (data, CONTAINER[:8] + data, CONTAINER + data + b"."):
        with pytest.raises(DecryptionFailedError):
            decrypt(container, KEY, "file")


@settings(max_examples=60)
@given(position=st.integers(0, 31), mask=st.integers(1, 255))
def test_another_key(position, mask):
    key = bytearray(KEY)
    key[position] ^= mask
    with pytest.raises(DecryptionFailedError):
        decrypt(CONTAINER, bytes(key), "file")


def test_a_container_that_names_another_artifact():
    header = CONTAINER[:20] + bytes(32) + CONTAINER[52:61]
    sealed = header + AESGCM(KEY).encrypt(CONTAINER[8:20], MODEL, header)
    with pytest.raises(DecryptionFailedError, match="not the one"):
        decrypt(sealed, KEY, "file")


@pytest.mark.parametrize("name", ["", "é" * 128])
def test_a_name_that_does_not_fit(name):
    with pytest.raises(UsageError):
        encrypt(name, MODEL, KEY)


def test_an_altered_artifact_is_not_encrypted(bundle, key_file, tmp_path, cli):
    (bundle / "net.onnx").write_bytes(b"")
    out = tmp_path / "net.enc"
    status, _, err = cli("encrypt", bundle, "--format", "onnx", "--key-file", key_file, "-o", out)
    assert status == 2 and "error[altered-file]" in err and not out.exists()


def test_what_cannot_be_encrypted(bundle, key_file, tmp_path, cli):
    for path, name, output, code in (
        (bundle, "pte", tmp_path / "out", "unknown-format"),
        (tmp_path / "absent", "onnx", tmp_path / "out", "not-a-bundle"),
        (bundle, "onnx", bundle / "out", "output-not-writable"),
        (bundle, "onnx", bundle / "goldens/../net.onnx", "output-not-writable"),
        (bundle, "onnx", tmp_path / "none/out", "output-not-writable"),
    ):
        status, _, err = cli("encrypt", path, "--format", name, "--key-file", key_file, "-o", output)
        assert status == 2 and err.startswith(f"error[{code}]: "), code


@pytest.mark.parametrize("size", [None, 0, 16, 31, 33, 64, 10**6])
def test_keys_of_other_sizes(size, bundle, tmp_path, cli):
    key_file, sealed = tmp_path / "key", tmp_path / "sealed"
    sealed.write_bytes(CONTAINER)
    if size is not None:
        key_file.write_bytes(bytes(size))
    for arguments in (
        ["encrypt", bundle, "--format", "onnx", "--key-file", key_file, "-o", tmp_path / "out"],
        ["decrypt", sealed, "--key-file", key_file, "-o", tmp_path / "out"],
    ):
        status, _, err = cli(*arguments)
        assert status == 2 and err.startswith("error[invalid-key]: ") and "32 random bytes" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("make", [lambda path: None, os.mkdir, os.mkfifo], ids=["absent", "folder", "pipe"])
def test_what_is_no_file_is_not_decrypted(make, key_file, tmp_path, cli):
    make(tmp_path / "sealed")
    status, _, err = cli("decrypt", tmp_path / "sealed", "--key-file", key_file, "-o", tmp_path / "out")
    assert status == 4 and err.startswith("error[decryption-failed]: ")


def test_nothing_is_written_of_what_was_altered(key_file, tmp_path, cli):
    (tmp_path / "sealed").write_bytes(CONTAINER[:-1] + bytes([CONTAINER[-1] ^ 1]))
    status, _, err = cli("decrypt", tmp_path / "sealed", "--key-file", key_file, "-o", tmp_path / "out")
    assert status == 4 and err.startswith("error[decryption-failed]: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["app.key", "sealed"]
