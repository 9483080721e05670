"""A bundle of a few bytes, keys to sign it with, and the command line in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_bundle import write_bundle

from edgecompile.cli.main import main
from edgecompile.signing.key_files import PASSPHRASE_VARIABLE, write_key_pair


class Keys:
    """The files of a key pair."""

    def __init__(self, folder: Path, name: str) -> None:
        self.private, self.public = folder / f"{name}.pem", folder / f"{name}.public.pem"
        write_key_pair(self.private, self.public, None)


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    """Whom the tests trust."""
    return Keys(tmp_path_factory.mktemp("keys"), "release")


@pytest.fixture(scope="session")
def other_keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    """Somebody else."""
    return Keys(tmp_path_factory.mktemp("keys"), "other")


@pytest.fixture(autouse=True)
def no_passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a variable of the one who runs the tests."""
    monkeypatch.delenv(PASSPHRASE_VARIABLE, raising=False)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle that nobody has signed."""
    return write_bundle(tmp_path / "bundle")


@pytest.fixture
def signed(bundle: Path, keys: Keys) -> Path:
    """A bundle that is signed."""
    assert main(["sign", str(bundle), "--key", str(keys.private)]) == 0
    return bundle


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command line: its status, and what it wrote on stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        return status, *capsys.readouterr()

    return run
