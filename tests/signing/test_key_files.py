"""Keys: RFC 8032's own, what `keygen` writes, and every file that is no such key."""

from __future__ import annotations

import base64
import json
import os
import pty
import select
import stat
import sys
import termios
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecompile.errors import EdgecompileError, InvalidKeyError
from edgecompile.signing.bundle_signature import sign_bundle
from edgecompile.signing.key_files import (
    PASSPHRASE_VARIABLE,
    key_id,
    load_private_key,
    load_public_key,
)

# RFC 8032, section 7.1, TEST 1 to TEST 3: secret key, public key, message, signature.
VECTORS = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
        "d25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
        "387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc659"
        "4a7c15e9716ed28dc027beceea1ec40a",
    ),
]
# RFC 8410: what stands before the key in PKCS#8, and in SubjectPublicKeyInfo.
PRIVATE, PUBLIC = "302e020100300506032b657004220420", "302a300506032b6570032100"


def pem(label: str, der: str) -> str:
    text = base64.b64encode(bytes.fromhex(der)).decode()
    return f"-----BEGIN {label}-----\n{text}\n-----END {label}-----\n"


@pytest.mark.parametrize(("secret", "public", "message", "signature"), VECTORS)
def test_the_vectors_of_the_rfc(secret, public, message, signature, tmp_path):
    private_file, public_file = tmp_path / "private.pem", tmp_path / "public.pem"
    private_file.write_text(pem("PRIVATE KEY", PRIVATE + secret))
    public_file.write_text(pem("PUBLIC KEY", PUBLIC + public))
    key = load_private_key(private_file, lambda: None)
    assert key.sign(bytes.fromhex(message)).hex() == signature
    load_public_key(public_file).verify(bytes.fromhex(signature), bytes.fromhex(message))
    assert key_id(load_public_key(public_file)) == key_id(key.public_key())


def test_a_bundle_is_signed_as_the_rfc_says(bundle, tmp_path):
    """Independently of the library: section 6's own code checks what `sign` wrote."""
    from rfc8032 import verify

    (tmp_path / "private.pem").write_text(pem("PRIVATE KEY", PRIVATE + VECTORS[0][0]))
    public = bytes.fromhex(VECTORS[0][1])
    signature = sign_bundle(bundle, load_private_key(tmp_path / "private.pem", lambda: None))
    message = b"edgecompile bundle signature 1\n" + (bundle / "manifest.json").read_bytes()
    assert verify(public, message, bytes.fromhex(signature.signature))
    assert not verify(public, message + b" ", bytes.fromhex(signature.signature))
    # printf HEX | xxd -r -p | sha256sum
    assert signature.key_id == "21fe31dfa154a261626bf854046fd2271b7bed4b6abe45aa58877ef47f9721b9"


def test_keygen(tmp_path, cli, bundle):
    status, out, _ = cli("keygen", tmp_path / "new.pem", "--json")
    document = json.loads(out)
    assert (status, document["encrypted"]) == (0, False)
    private, public = tmp_path / "new.pem", tmp_path / "new.public.pem"
    assert (document["private_key"], document["public_key"]) == (str(private), str(public))
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert document["key_id"] == key_id(load_public_key(public))
    assert private.read_text().startswith("-----BEGIN PRIVATE KEY-----\n")
    assert cli("sign", bundle, "--key", private)[0] == 0
    assert cli("verify", bundle, "--public-key", public)[0] == 0
    assert "not encrypted" in cli("keygen", tmp_path / "another.key")[1]
    assert (tmp_path / "another.key.public.pem").exists()


@pytest.mark.parametrize("existing", ["new.pem", "new.public.pem"])
def test_keygen_never_overwrites(existing, tmp_path, cli):
    (tmp_path / existing).write_text("precious")
    status, _, err = cli("keygen", tmp_path / "new.pem")
    assert status == 2 and err.startswith("error[output-not-writable]: ")
    assert [path.name for path in tmp_path.iterdir()] == [existing]
    assert (tmp_path / existing).read_text() == "precious"


def test_keygen_follows_no_link(tmp_path, cli):
    (tmp_path / "new.pem").symlink_to(tmp_path / "elsewhere")
    assert cli("keygen", tmp_path / "new.pem")[0] == 2
    assert not (tmp_path / "elsewhere").exists()


def test_keygen_into_no_folder(tmp_path, cli):
    assert "error[output-not-writable]" in cli("keygen", tmp_path / "none/new.pem")[2]


def test_a_passphrase(tmp_path, cli, bundle, monkeypatch):
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "correct horse")
    assert "encrypted" in cli("keygen", tmp_path / "new.pem")[1]
    assert (tmp_path / "new.pem").read_text().startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    assert cli("sign", bundle, "--key", tmp_path / "new.pem")[0] == 0
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "battery staple")
    status, _, err = cli("sign", bundle, "--key", tmp_path / "new.pem")
    assert status == 2 and "error[invalid-key]" in err and "passphrase is wrong" in err
    monkeypatch.delenv(PASSPHRASE_VARIABLE)
    status, _, err = cli("sign", bundle, "--key", tmp_path / "new.pem")
    assert status == 2 and "error[invalid-key]" in err and PASSPHRASE_VARIABLE in err


def test_a_passphrase_that_is_not_needed(keys, cli, bundle, monkeypatch):
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "correct horse")
    assert cli("sign", bundle, "--key", keys.private)[0] == 0


def test_a_passphrase_that_is_typed(tmp_path):
    """On a terminal of its own; what is typed is not shown."""
    pid, terminal = pty.fork()
    if pid == 0:
        command = [sys.executable, "-m", "edgecompile.cli.main", "keygen", str(tmp_path / "new.pem")]
        os.execv(sys.executable, command)
    shown = b""
    try:
        for prompt in (b"Passphrase", b"Repeat"):
            while prompt not in shown:
                shown += read_soon(terminal)
            wait_for_silence(terminal)
            os.write(terminal, b"secret\n")
        while data := read_soon(terminal):
            shown += data
    finally:
        os.close(terminal)
    assert os.waitpid(pid, 0)[1] == 0, shown
    assert b"secret" not in shown
    load_private_key(tmp_path / "new.pem", lambda: b"secret")


def read_soon(terminal):
    assert select.select([terminal], [], [], 60)[0], "nothing was shown for a minute"
    try:
        return os.read(terminal, 1000)
    except OSError:  # how a terminal ends
        return b""


def wait_for_silence(terminal):
    """Wait until the terminal does not echo: what is typed earlier is thrown away."""
    for _ in range(6000):
        if not termios.tcgetattr(terminal)[3] & termios.ECHO:
            return
        time.sleep(0.01)
    pytest.fail("the terminal still shows what is typed")


NO_KEYS = {
    "empty": b"",
    "text": b"no key at all\n",
    "binary": bytes(range(256)),
    "large": b"-----BEGIN PUBLIC KEY-----\n" + b"A" * 20_000,
    "cut off": pem("PUBLIC KEY", PUBLIC + VECTORS[0][1]).encode()[:60],
    "short": pem("PUBLIC KEY", PUBLIC + "00").encode(),
    "certificate": pem("CERTIFICATE", PUBLIC + VECTORS[0][1]).encode(),
    "short private": pem("PRIVATE KEY", PRIVATE + "00").encode(),
    "encrypted by nothing": pem("ENCRYPTED PRIVATE KEY", PRIVATE + VECTORS[0][0]).encode(),
    "OpenSSH's": pem("OPENSSH PRIVATE KEY", "00" * 40).encode(),
}


@pytest.mark.parametrize("data", NO_KEYS.values(), ids=NO_KEYS)
def test_files_that_are_no_key(data, tmp_path):
    (tmp_path / "key.pem").write_bytes(data)
    with pytest.raises(InvalidKeyError):
        load_public_key(tmp_path / "key.pem")
    with pytest.raises(InvalidKeyError):
        load_private_key(tmp_path / "key.pem", lambda: b"passphrase")


@pytest.mark.parametrize("kind", ["absent", "folder", "pipe"])
def test_what_is_no_file(kind, tmp_path, bundle, cli):
    path = tmp_path / "key"
    {"absent": lambda path: None, "folder": os.mkdir, "pipe": os.mkfifo}[kind](path)
    for arguments in (["verify", bundle, "--public-key", path], ["sign", bundle, "--key", path]):
        status, _, err = cli(*arguments)
        assert status == 2 and err.startswith("error[invalid-key]: ")


def test_keys_of_other_kinds(tmp_path):
    from cryptography.hazmat.primitives.asymmetric import ec, rsa, x25519
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    others = {
        "X25519": x25519.X25519PrivateKey.generate(),
        "EC": ec.generate_private_key(ec.SECP256R1()),
        "RSA": rsa.generate_private_key(65537, 2048),
    }
    for name, key in others.items():
        private, public = tmp_path / f"{name}.pem", tmp_path / f"{name}.public.pem"
        private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        with pytest.raises(InvalidKeyError, match="another kind"):
            load_private_key(private, lambda: None)
        with pytest.raises(InvalidKeyError, match="another kind"):
            load_public_key(public)


def test_the_private_key_is_not_for_those_who_verify(keys, bundle, cli):
    status, _, err = cli("verify", bundle, "--public-key", keys.private)
    assert status == 2 and "error[invalid-key]" in err and "private key" in err
    status, _, err = cli("sign", bundle, "--key", keys.public)
    assert status == 2 and "error[invalid-key]" in err


@settings(max_examples=200)
@given(place=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
def test_a_damaged_file_gives_another_key_or_none(keys, tmp_path_factory, place, mask):
    """Some bits of the text say nothing: the line ends, and two of base64's last letter."""
    whole = keys.public.read_bytes()
    position = int(place * len(whole))
    data = bytearray(whole)
    data[position] ^= mask
    path = tmp_path_factory.getbasetemp() / "damaged.pem"
    path.write_bytes(data)
    try:
        found = load_public_key(path).public_bytes_raw()
    except EdgecompileError as error:
        assert isinstance(error, InvalidKeyError)
        return
    same = found == load_public_key(keys.public).public_bytes_raw()
    body = whole.index(b"\n") + 1
    last_letter = whole.index(b"=") - 1
    assert not same or not body <= position < last_letter
