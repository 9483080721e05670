"""A signed bundle runs as any other; with one byte altered it runs nowhere, nor in the runner itself."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from edgecompile.artifact import load_bundle
from edgecompile.cli.main import main
from edgecompile.connections.host import Host
from edgecompile.errors import AlteredFileError
from edgecompile.goldens import read_goldens
from edgecompile.run_artifact import run_artifact

pytestmark = pytest.mark.usefixtures("host_tools")


@pytest.fixture
def signed(bundle: Path, tmp_path: Path) -> Path:
    """The built bundle, signed with a new key."""
    folder = tmp_path / bundle.name
    shutil.copytree(bundle, folder)
    assert main(["keygen", str(tmp_path / "key.pem")]) == 0
    assert main(["sign", str(folder), "--key", str(tmp_path / "key.pem")]) == 0
    return folder


def test_a_signed_bundle_is_used_as_any_other(signed: Path, tmp_path: Path, capsys):
    key = ["--public-key", str(tmp_path / "key.public.pem")]
    assert main(["verify", str(signed), *key]) == 0
    assert main(["validate", str(signed), "--no-layers", *key]) == 0
    assert capsys.readouterr().out.endswith("passed\n")
    assert main(["bench", str(signed), "--rounds", "1", "--seconds", "0.01", "--format", "pte", *key]) == 0
    assert main(["inspect", str(signed)]) == 0
    assert main(["verify", str(signed), *key]) == 0  # none of them left anything there


@pytest.mark.parametrize("suffix", ["pte", "ptl", "onnx"])
def test_one_altered_byte_of_an_artifact_is_refused_everywhere(signed: Path, tmp_path: Path, suffix, capsys):
    bundle = load_bundle(signed)
    (artifact,) = (item for item in bundle.artifacts if item.format == suffix)
    samples, _ = read_goldens(bundle)
    file = signed / artifact.path
    data = bytearray(file.read_bytes())
    choose = random.Random(suffix)
    key = ["--public-key", str(tmp_path / "key.public.pem")]
    for position in (0, len(data) - 1, *(choose.randrange(len(data)) for _ in range(6))):
        bit = 1 << choose.randrange(8)
        data[position] ^= bit
        file.write_bytes(data)
        assert main(["verify", str(signed), *key]) == 2
        assert "error[altered-file]" in capsys.readouterr().err
        # Past all that Python checks, as if it had been exchanged on the way to the device.
        with Host() as host, pytest.raises(AlteredFileError) as error:
            run_artifact(file, artifact.sha256, [samples[0].inputs], host, engine=artifact.engine)
        assert error.value.lines["found"] == "exit code 3 (hash-mismatch)"
        data[position] ^= bit
    for command in (["validate", "--no-layers", "--on", "host"], ["bench"]):
        assert main([*command, str(signed), *key]) == 2
        assert "error[altered-file]" in capsys.readouterr().err
