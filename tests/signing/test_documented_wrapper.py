"""The wrapper in docs/signing.md, run as it stands there, takes what is signed and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tiny_bundle import FILES

from edgecompile.signing.bundle_signature import DOMAIN
from edgecompile.signing.encrypted_artifact import MAGIC
from edgecompile.signing.key_files import load_public_key

PAGE = (Path(__file__).parents[2] / "docs" / "signing.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def verified_artifact():
    (source,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {}
    exec(source, names)
    return names["verified_artifact"]


def test_it_takes_what_is_signed(verified_artifact, signed, keys):
    raw = load_public_key(keys.public).public_bytes_raw()
    assert verified_artifact(signed, raw, "onnx") == FILES["net.onnx"]


@pytest.mark.parametrize("name", ["manifest.json", "net.onnx", "signature.json"])
def test_it_refuses_an_altered_byte(verified_artifact, signed, keys, name):
    raw = load_public_key(keys.public).public_bytes_raw()
    whole = (signed / name).read_bytes()
    # In the signature's file the space of its indentation says nothing, nor does the key id.
    first = whole.index(b'"signature"') if name == "signature.json" else 0
    for position in range(first, len(whole.rstrip(b"\n}")), 7):
        (signed / name).write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(Exception):  # noqa: B017 (the library's, JSON's, or its own)
            verified_artifact(signed, raw, "onnx")


def test_it_refuses_another_key(verified_artifact, signed, other_keys):
    with pytest.raises(Exception):  # noqa: B017
        verified_artifact(signed, load_public_key(other_keys.public).public_bytes_raw(), "onnx")


def test_the_page_has_the_constants():
    assert f'"{DOMAIN.decode().rstrip()}\\n"     {len(DOMAIN)} bytes' in PAGE
    assert f"`{MAGIC.decode()}` in ASCII" in PAGE
