"""What the tests of whole builds share: the command line in this process, and where the networks are."""

import contextlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import networks
import pytest

from edgecompile.cli.main import main


@dataclass(frozen=True)
class Finished:
    status: int
    out: str
    err: str


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory) -> Iterator[Path]:
    """A cache of the module's own: what other tests, or the user, have built is not reused."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGECOMPILE_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def cli() -> Callable[..., Finished]:
    """Run a command line in this process, so that torch is imported once."""

    def run(*arguments: object) -> Finished:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main([str(argument) for argument in arguments])
        return Finished(status, out.getvalue(), err.getvalue())

    return run


@pytest.fixture(scope="session")
def build(cli, tmp_path_factory) -> Callable[..., Path]:
    """Build one network for android-arm64, or another target, and return the bundle."""

    spec = networks.__file__

    def run(
        network: str, *options: str, target: str = "android-arm64", data: str | None = "pictures"
    ) -> Path:
        output = tmp_path_factory.mktemp(network)
        given = ["--calibration", f"{spec}:{data}"] if data else []
        finished = cli("build", f"{spec}:{network}", "--target", target, *given, "--output", output, *options)
        assert finished.status == 0, finished.err
        return output / target

    return run
