"""What the tests of baselines and gates share: builds of one network and of worse copies of it."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import shapes

from edgecompile.compile import build as compile_model
from edgecompile.settings import Options, resolve

# What costs seconds, and has tests of its own.
_QUICK = {
    "equalization": False,
    "bias_absorption": False,
    "weight_rounding": "nearest",
    "bias_correction": False,
}


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory) -> Iterator[None]:
    """A cache of these tests' own for builds, also of those in other processes; runners are the suite's."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGECOMPILE_CACHE", str(folder / "regression-cache"))
        yield


@pytest.fixture(scope="session")
def build(tmp_path_factory) -> Callable[..., Path]:
    """Build one of the networks, and return the bundle."""

    def run(
        model: str = "model",
        *,
        calibration: str = "calibration",
        evaluation: str | None = "evaluation",
        **options: object,
    ) -> Path:
        spec = shapes.__file__
        output = tmp_path_factory.mktemp(model)
        flags = Options(
            target=("android-arm64",),
            calibration=f"{spec}:{calibration}",
            evaluation=None if evaluation is None else f"{spec}:{evaluation}",
            output=str(output),
            jobs=1,
            quantization=_QUICK,
            **options,  # type: ignore[arg-type]
        )
        (bundle,) = compile_model(resolve(f"{spec}:{model}", flags))
        return bundle.path

    return run
