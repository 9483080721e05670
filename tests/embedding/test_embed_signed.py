"""`edgecompile embed --public-key`: what is embedded is signed, and the wrapper can verify it."""

import dataclasses
import json

import pytest
from signed_bundles import sign, signed_copy
from synthetic_bundle import write_bundle

from edgecompile.artifact import interface_of, load_bundle, write_manifest
from edgecompile.embedding.platform import load_platform, platform_names

ABLE = [name for name in platform_names() if load_platform(name).verifies_signatures]


@pytest.fixture
def signed(tmp_path):
    return signed_copy(write_bundle(tmp_path / "plain"), tmp_path)


def code_of(finished):
    return finished.err.partition("]")[0].removeprefix("error[")


@pytest.mark.parametrize("platform", ABLE)
def test_the_project_carries_what_was_signed_and_the_key(cli, signed, tmp_path, platform):
    arguments = ("--platform", platform, "-o", tmp_path / "app", "--public-key", signed.public_key, "--json")
    finished = cli("embed", signed.path, *arguments)
    assert finished.status == 0, finished.err
    written = json.loads(finished.out)
    assert written["key_id"] == json.loads((signed.path / "signature.json").read_text())["key_id"]
    for name in ("manifest.json", "signature.json"):
        (path,) = (tmp_path / "app").rglob(name)
        assert path.read_bytes() == (signed.path / name).read_bytes()
        assert (path.parent / f"net.{written['format']}").exists()
    readme = (tmp_path / "app/README.md").read_text()
    assert written["key_id"] in readme
    assert "Signed updates" in readme


@pytest.mark.parametrize("platform", ABLE)
def test_a_signed_bundle_without_a_key_is_embedded_as_any_other(cli, signed, tmp_path, platform):
    for name, bundle in (("signed", signed.path), ("plain", tmp_path / "plain")):
        finished = cli("embed", bundle, "--platform", platform, "-o", tmp_path / name / "app", "--json")
        assert json.loads(finished.out)["key_id"] is None
    mark = ".edgecompile-embed.json"
    assert (tmp_path / f"signed/app/{mark}").read_text() == (tmp_path / f"plain/app/{mark}").read_text()


def test_it_asks_for_a_bundle_that_the_key_signed(cli, signed, tmp_path):
    def refused(bundle, key=signed.public_key):
        arguments = ("--platform", "python", "-o", tmp_path / "app", "--public-key", key)
        finished = cli("embed", bundle, *arguments)
        assert not (tmp_path / "app").exists()
        return finished.status, code_of(finished)

    assert refused(tmp_path / "plain") == (4, "signature-missing")
    assert refused(signed.path, tmp_path / "other.public.pem") == (4, "signature-invalid")
    assert refused(signed.path, tmp_path / "release.pem") == (2, "invalid-key")
    assert refused(signed.path, tmp_path / "absent.pem") == (2, "invalid-key")
    (signed.path / "extra").touch()
    assert refused(signed.path) == (4, "unlisted-file")
    (signed.path / "extra").unlink()
    artifact = signed.path / "model.onnx"
    artifact.write_bytes(artifact.read_bytes()[:-1] + b"?")
    assert refused(signed.path) == (2, "altered-file")


def test_a_platform_whose_wrapper_verifies_nothing(cli, signed, tmp_path):
    for platform in set(platform_names()) - set(ABLE):
        arguments = ("--platform", platform, "-o", tmp_path / "app", "--public-key", signed.public_key)
        finished = cli("embed", signed.path, *arguments)
        assert (finished.status, code_of(finished)) == (2, "platform-signature")
        assert "cpp, node, python, web" in finished.err


@pytest.mark.parametrize("interface", [None, "0" * 64], ids=["from before it", "of another model"])
def test_a_manifest_that_does_not_say_which_updates_fit(cli, signed, tmp_path, interface):
    manifest = load_bundle(signed.path).manifest
    write_manifest(signed.path, dataclasses.replace(manifest, interface=interface))
    sign(signed.path, tmp_path / "release.pem")
    arguments = ("--platform", "python", "-o", tmp_path / "app", "--public-key", signed.public_key)
    finished = cli("embed", signed.path, *arguments)
    assert code_of(finished) == "invalid-manifest"
    assert "build the bundle again" in finished.err


def test_what_is_the_interface(tmp_path):
    """Weights and quantization may change; what the code of an app knows may not."""
    manifest = load_bundle(write_bundle(tmp_path / "a")).manifest
    (entry,) = manifest.inputs
    same = [
        {"edgecompile_version": "9"},
        {"target": "ios-arm64", "precision": "fp32", "goldens": 7, "artifacts": ()},
        {"inputs": (dataclasses.replace(entry, scale=0.5, zero_point=3),)},
    ]
    other = [
        {"name": "other"},
        {"inputs": (dataclasses.replace(entry, name="y"),)},
        {"inputs": (dataclasses.replace(entry, shape=(1, 3, 8, 7)),)},
        {"outputs": (dataclasses.replace(entry, dtype="int8"),)},
        {"files": manifest.files | {"labels.txt": "0" * 64}},
    ]
    found = interface_of(manifest)
    assert all(interface_of(dataclasses.replace(manifest, **changes)) == found for changes in same)
    assert all(interface_of(dataclasses.replace(manifest, **changes)) != found for changes in other)
