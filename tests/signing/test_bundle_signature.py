"""A signed bundle is what was signed to the last byte; whatever else it is, it is refused by its code."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_bundle import FILES, write_bundle

from edgecompile.bundle_writer import replaced_folder
from edgecompile.errors import (
    AlteredFileError,
    EdgecompileError,
    SignatureInvalidError,
    SignatureMissingError,
    UnlistedFileError,
)
from edgecompile.signing.bundle_signature import DOMAIN, sign_bundle, verify_bundle
from edgecompile.signing.key_files import key_id, load_private_key, load_public_key
from edgecompile.signing.listed_files import SIGNATURE

LISTED = sorted(FILES)


def refused(path, keys):
    """Return the code by which a bundle is refused."""
    with pytest.raises(EdgecompileError) as caught:
        verify_bundle(path, [load_public_key(keys.public)])
    return caught.value.code


def test_sign_and_verify(bundle, keys, cli):
    status, out, _ = cli("sign", bundle, "--key", keys.private, "--json")
    name = key_id(load_public_key(keys.public))
    assert (status, json.loads(out)["key_id"]) == (0, name)
    status, out, _ = cli("verify", bundle, "--public-key", keys.public)
    assert (status, name in out, "all 3 files" in out) == (0, True, True)
    status, out, _ = cli("verify", bundle, "--public-key", keys.public, "--json")
    assert json.loads(out)["files"] == 3


def test_one_of_several_keys_is_enough(signed, keys, other_keys, cli):
    assert cli("verify", signed, "--public-key", other_keys.public, "--public-key", keys.public)[0] == 0


def test_a_link_to_the_whole_bundle_may_be_given(signed, keys, tmp_path, cli):
    (tmp_path / "latest").symlink_to(signed)
    assert cli("verify", tmp_path / "latest", "--public-key", keys.public)[0] == 0


def test_signing_again_replaces(signed, keys, other_keys, cli):
    first = (signed / SIGNATURE).read_bytes()
    assert cli("sign", signed, "--key", keys.private)[0] == 0
    assert (signed / SIGNATURE).read_bytes() == first  # Ed25519 draws nothing
    assert cli("sign", signed, "--key", other_keys.private)[0] == 0
    assert refused(signed, keys) == "signature-invalid"
    assert cli("verify", signed, "--public-key", other_keys.public)[0] == 0


def test_another_key_is_named_by_its_id(signed, keys, other_keys, cli):
    status, out, err = cli("verify", signed, "--public-key", other_keys.public)
    assert (status, out) == (4, "")
    assert err.startswith("error[signature-invalid]: ") and "not trusted" in err
    assert key_id(load_public_key(keys.public)) in err
    assert key_id(load_public_key(other_keys.public)) in err


def test_a_forged_key_id_does_not_help(signed, keys, other_keys):
    sign_bundle(signed, load_private_key(other_keys.private, lambda: None))
    document = json.loads((signed / SIGNATURE).read_text())
    document["key_id"] = key_id(load_public_key(keys.public))
    (signed / SIGNATURE).write_text(json.dumps(document, indent=1) + "\n")
    with pytest.raises(SignatureInvalidError, match="not that of this manifest"):
        verify_bundle(signed, [load_public_key(keys.public)])


def test_a_signature_over_the_bare_manifest_is_none(signed, keys):
    manifest = (signed / "manifest.json").read_bytes()
    document = json.loads((signed / SIGNATURE).read_text())
    key = load_private_key(keys.private, lambda: None)
    for message, holds in ((manifest, False), (DOMAIN + manifest, True)):
        document["signature"] = key.sign(message).hex()
        (signed / SIGNATURE).write_text(json.dumps(document, indent=1) + "\n")
        if holds:
            verify_bundle(signed, [load_public_key(keys.public)])
        else:
            assert refused(signed, keys) == "signature-invalid"


def test_a_signature_of_another_bundle(signed, keys, tmp_path):
    other = write_bundle(tmp_path / "other", {**FILES, "report.json": b"[]"})
    shutil.copy(signed / SIGNATURE, other)
    assert refused(other, keys) == "signature-invalid"


def test_a_bundle_that_is_built_again_is_no_longer_signed(signed, keys):
    with replaced_folder(signed) as folder:
        write_bundle(folder)
    with pytest.raises(SignatureMissingError):
        verify_bundle(signed, [load_public_key(keys.public)])


def test_not_signed(bundle, keys, cli):
    status, _, err = cli("verify", bundle, "--public-key", keys.public)
    assert status == 4 and err.startswith("error[signature-missing]: ")


# --- a byte that is another one --------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept(tmp_path_factory, keys):
    """A signed bundle that every example finds as it was."""
    folder = write_bundle(tmp_path_factory.mktemp("kept") / "bundle")
    sign_bundle(folder, load_private_key(keys.private, lambda: None))
    return folder


def refused_with(path, data, folder, keys):
    """Return the code by which a bundle with a file of other bytes is refused, and put the file back."""
    whole = path.read_bytes()
    path.write_bytes(data)
    try:
        return refused(folder, keys)
    finally:
        path.write_bytes(whole)


PLACES = st.floats(0, 1, exclude_max=True)


@settings(max_examples=300)
@given(name=st.sampled_from([*LISTED, "manifest.json"]), place=PLACES, mask=st.integers(1, 255))
def test_any_byte_of_any_file(kept, keys, name, place, mask):
    data = bytearray((kept / name).read_bytes())
    data[int(place * len(data))] ^= mask
    expected = "signature-invalid" if name == "manifest.json" else "altered-file"
    assert refused_with(kept / name, bytes(data), kept, keys) == expected


def test_every_byte_of_the_signature(kept, keys):
    whole = (kept / SIGNATURE).read_bytes()
    for position in range(len(whole)):
        for bit in (0, 5):  # bit 5 makes a digit's letter another case
            data = bytearray(whole)
            data[position] ^= 1 << bit
            assert refused_with(kept / SIGNATURE, bytes(data), kept, keys) == "signature-invalid"


@settings(max_examples=100)
@given(name=st.sampled_from([*LISTED, "manifest.json", SIGNATURE]), place=PLACES)
def test_any_file_cut_short(kept, keys, name, place):
    data = (kept / name).read_bytes()
    code = refused_with(kept / name, data[: int(place * len(data))], kept, keys)
    assert code == ("altered-file" if name in LISTED else "signature-invalid")


@settings(max_examples=60)
@given(name=st.sampled_from([*LISTED, "manifest.json", SIGNATURE]), more=st.binary(min_size=1, max_size=9))
def test_any_file_with_more_at_its_end(kept, keys, name, more):
    code = refused_with(kept / name, (kept / name).read_bytes() + more, kept, keys)
    assert code == ("altered-file" if name in LISTED else "signature-invalid")


@settings(max_examples=60)
@given(position=st.integers(0, 31), mask=st.integers(1, 255))
def test_any_byte_of_the_key(kept, keys, position, mask):
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    raw = bytearray(load_public_key(keys.public).public_bytes_raw())
    raw[position] ^= mask
    with pytest.raises(SignatureInvalidError):
        verify_bundle(kept, [Ed25519PublicKey.from_public_bytes(bytes(raw))])


# --- signature.json --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "1" * 4000,
        "[" * 4000,
        "{}",
        '{"schema_version": 2}',
        "\ufeff{}",
        '{"key_id": "\\ud800"}',
        '{"key_id": NaN}',
    ],
)
def test_damaged_json(signed, keys, text):
    (signed / SIGNATURE).write_text(text)
    assert refused(signed, keys) == "signature-invalid"


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": 2},
        {"schema_version": "1"},
        {"algorithm": "none"},
        {"signature": ""},
        {"signature": "0" * 128},
        {"signature": "0" * 126 + "\n\n"},
        {"signature": "g" * 128},
        {"key_id": "A" * 64},
        {"key_id": None},
        {"more": 1},
    ],
    ids=str,
)
def test_other_values(signed, keys, change):
    document = json.loads((signed / SIGNATURE).read_text()) | change
    (signed / SIGNATURE).write_text(json.dumps(document, indent=1) + "\n")
    assert refused(signed, keys) == "signature-invalid"


def test_a_signature_that_could_be_written_in_two_ways(signed, keys):
    """S and S + L are the same modulo the group's order L; RFC 8032 takes only the first."""
    order = 2**252 + 27742317777372353535851937790883648493
    document = json.loads((signed / SIGNATURE).read_text())
    raw = bytes.fromhex(document["signature"])
    second = (int.from_bytes(raw[32:], "little") + order).to_bytes(32, "little")
    document["signature"] = (raw[:32] + second).hex()
    (signed / SIGNATURE).write_text(json.dumps(document, indent=1) + "\n")
    assert refused(signed, keys) == "signature-invalid"


def test_oversized(signed, keys):
    for name, code in (("manifest.json", "invalid-manifest"), (SIGNATURE, "signature-invalid")):
        whole = (signed / name).read_bytes()
        with (signed / name).open("r+b") as file:
            file.truncate(2**40)  # sparse: nobody reads it
        assert refused(signed, keys) == code
        (signed / name).write_bytes(whole)


# --- the folder ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["more.txt", "goldens/more.npy", "new/deep/file", ".hidden", "a\nb\x1b[31m"])
def test_what_is_not_listed_is_named(signed, keys, name, cli):
    (signed / name).parent.mkdir(parents=True, exist_ok=True)
    (signed / name).write_text("")
    status, _, err = cli("verify", signed, "--public-key", keys.public)
    assert status == 4 and err.startswith("error[unlisted-file]: ")
    assert repr(name) in err and "\x1b" not in err


def test_a_name_that_is_no_text(signed, keys, cli):
    with open(os.fsencode(signed) + b"/\xff", "wb"):  # noqa: PTH123 (a path of bytes)
        pass
    status, _, err = cli("verify", signed, "--public-key", keys.public)
    assert status == 4 and "'\\udcff'" in err


def test_links_are_not_listed_files(signed, keys, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (signed / "link").symlink_to(outside)
    with pytest.raises(UnlistedFileError, match="does not list"):
        verify_bundle(signed, [load_public_key(keys.public)])
    (signed / "link").unlink()
    for name in LISTED:  # the right bytes, elsewhere
        shutil.move(signed / name, outside / "file")
        (signed / name).symlink_to(outside / "file")
        assert refused(signed, keys) == "altered-file"
        (signed / name).unlink()
        shutil.move(outside / "file", signed / name)
    shutil.move(signed / "goldens", outside)
    (signed / "goldens").symlink_to(outside / "goldens")
    assert refused(signed, keys) == "unlisted-file"


@pytest.mark.parametrize(
    ("name", "code"), [("manifest.json", "invalid-manifest"), (SIGNATURE, "signature-invalid")]
)
def test_links_are_neither_manifest_nor_signature(signed, keys, tmp_path, name, code):
    shutil.move(signed / name, tmp_path / "file")
    (signed / name).symlink_to(tmp_path / "file")
    assert refused(signed, keys) == code


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
@pytest.mark.parametrize(
    ("name", "code"),
    [("manifest.json", "invalid-manifest"), (SIGNATURE, "signature-invalid"), ("net.onnx", "altered-file")],
)
def test_what_is_no_file_holds_nobody_up(signed, keys, make, name, code):
    (signed / name).unlink()
    make(signed / name)
    assert refused(signed, keys) == code


def test_a_missing_file(signed, keys, cli):
    (signed / "net.onnx").unlink()
    status, _, err = cli("verify", signed, "--public-key", keys.public)
    assert status == 2 and err.startswith("error[altered-file]: ") and "'net.onnx'" in err


def test_a_signed_manifest_may_not_lead_outside(bundle, keys):
    """Signing is no licence: what a manifest may say is checked after its signature."""
    key = load_private_key(keys.private, lambda: None)
    manifest = (bundle / "manifest.json").read_bytes()
    (bundle / "manifest.json").write_bytes(manifest.replace(b"report.json", b"../../etc/x"))
    signature = {"schema_version": 1, "algorithm": "ed25519", "key_id": key_id(key.public_key())}
    text = DOMAIN + (bundle / "manifest.json").read_bytes()
    (bundle / SIGNATURE).write_text(
        json.dumps(signature | {"signature": key.sign(text).hex()}, indent=1) + "\n"
    )
    assert refused(bundle, keys) == "invalid-manifest"


@pytest.mark.parametrize("path", ["absent", "."])
def test_no_bundle(path, keys, tmp_path, monkeypatch, cli):
    monkeypatch.chdir(tmp_path)
    for arguments in (["verify", path, "--public-key", keys.public], ["sign", path, "--key", keys.private]):
        status, _, err = cli(*arguments)
        assert status == 2 and err.startswith("error[not-a-bundle]: ")


def test_only_what_is_whole_is_signed(bundle, keys, cli):
    (bundle / "report.json").write_bytes(b"[]")
    key = load_private_key(keys.private, lambda: None)
    with pytest.raises(AlteredFileError):
        sign_bundle(bundle, key)
    (bundle / "report.json").write_bytes(FILES["report.json"])
    (bundle / "more").write_bytes(b"")
    with pytest.raises(UnlistedFileError):
        sign_bundle(bundle, key)
    assert not (bundle / SIGNATURE).exists()


# --- other commands --------------------------------------------------------------------------------


def test_inspect_takes_a_signed_bundle(signed, cli):
    # Three bytes are no ONNX model: it comes as far as without a signature.
    assert "error[unreadable-artifact]" in cli("inspect", signed)[2]


@pytest.mark.parametrize("command", ["validate", "bench"])
def test_what_runs_artifacts_asks_for_the_signature(command, bundle, keys, other_keys, cli):
    status, _, err = cli(command, bundle, "--public-key", keys.public)
    assert status == 4 and err.startswith("error[signature-missing]: ")
    assert cli("sign", bundle, "--key", other_keys.private)[0] == 0
    status, _, err = cli(command, bundle, "--public-key", keys.public)
    assert status == 4 and err.startswith("error[signature-invalid]: ")
    assert cli("sign", bundle, "--key", keys.private)[0] == 0
    (bundle / "more").write_bytes(b"")
    status, _, err = cli(command, bundle, "--public-key", keys.public)
    assert status == 4 and err.startswith("error[unlisted-file]: ")
    (bundle / "more").unlink()
    (bundle / "net.onnx").write_bytes(b"")
    status, _, err = cli(command, bundle, "--public-key", keys.public)
    assert status == 2 and err.startswith("error[altered-file]: ")


@pytest.mark.parametrize("command", ["sign", "verify"])
def test_neither_needs_torch(command, signed, keys):
    code = (
        "import sys; from edgecompile.cli.main import main; status = main(sys.argv[1:]);"
        "sys.exit(status or repr({'torch', 'numpy', 'rich'} & set(sys.modules)).replace('set()', '') or 0)"
    )
    key = ["--key", keys.private] if command == "sign" else ["--public-key", keys.public]
    subprocess.run([sys.executable, "-c", code, command, signed, *key], check=True)


@pytest.mark.parametrize(
    "arguments",
    [
        ["keygen", "FILE"],
        ["sign", "BUNDLE", "--key", "FILE"],
        ["verify", "BUNDLE", "--public-key", "FILE"],
        ["validate", "BUNDLE", "--public-key", "FILE"],
        ["encrypt", "BUNDLE", "--format", "onnx", "--key-file", "FILE", "-o", "FILE2"],
        ["decrypt", "FILE", "--key-file", "FILE", "-o", "FILE2"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_without_cryptography_the_extra_is_named(arguments, bundle, tmp_path):
    places = {"BUNDLE": bundle, "FILE": tmp_path / "file", "FILE2": tmp_path / "file2"}
    code = (
        "import sys; sys.modules['cryptography'] = None; from edgecompile.cli.main import main;"
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, *(str(places.get(word, word)) for word in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 5
    assert (
        done.stderr.startswith("error[tool-missing]: ") and "pip install 'edgecompile[sign]'" in done.stderr
    )
