"""What the tests of whole builds share: a cache of their own, and where the networks are."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import networks
import pytest

from edgecompile.artifact import load_bundle


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory) -> Iterator[Path]:
    """A cache of the module's own: what other tests, or the user, have built is not reused."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGECOMPILE_CACHE", str(folder))
        yield folder


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


@pytest.fixture(scope="session")
def built(cli, tmp_path_factory) -> Callable[..., Any]:
    """Build a network with data for pruning, and return its bundle and what was printed."""
    spec, target = networks.__file__, "linux-x86-64"
    textures = ("--calibration", f"{spec}:textures", "--evaluation", f"{spec}:other_textures")

    def run(*options, network: str = "prunable", status: int = 0, data: tuple[str, ...] = textures):
        output = tmp_path_factory.mktemp("built")
        build = ("build", f"{spec}:{network}", "--target", target, *data, "--output", output)
        finished = cli(*build, *options)
        assert finished.status == status, finished.err
        return finished if status else (load_bundle(output / target), finished)

    return run
