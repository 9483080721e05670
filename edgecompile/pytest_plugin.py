"""Fixtures and a marker for the tests of an app: which model, target and budget must hold.

::

    @pytest.mark.edgecompile("model.py:make", target="android-arm64", calibration="calibration.npz",
                             evaluation="evaluation.npz", baseline="model.baseline.json")
    def test_model_ships(edgecompile_check):
        edgecompile_check()

Paths are relative to the test's file. `pytest --edgecompile-update-baseline` writes the baselines.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from edgecompile.artifact import Bundle
    from edgecompile.regression.check import Check

_MARKER = "edgecompile"
_OPTION = "--edgecompile-update-baseline"
_WRITTEN = "edgecompile-baseline"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that writes baselines."""
    group = parser.getgroup("edgecompile")
    group.addoption(_OPTION, action="store_true", help="write the baselines of edgecompile_check anew")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line(
        "markers",
        f"{_MARKER}(model, target=, calibration=, evaluation=, baseline=, count_on=, memory=, **options): "
        "the model that edgecompile_bundle builds, with the options of `edgecompile build`, and what "
        "edgecompile_check holds it to",
    )


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say which baselines were written, by whichever worker."""
    reports = [report for rows in terminalreporter.stats.values() for report in rows]
    properties = [pair for report in reports for pair in getattr(report, "user_properties", ())]
    for path in dict.fromkeys(value for name, value in properties if name == _WRITTEN):
        terminalreporter.write_line(f"edgecompile wrote {path}: read it, and commit it")


@dataclass(frozen=True, kw_only=True)
class _Marked:
    """What a test's marker says."""

    model: str
    baseline: Path | None
    count_on: str | None
    memory: bool
    options: dict[str, Any]


@pytest.fixture(scope="session")
def edgecompile_build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Bundle]:
    """Return a function that builds a model once a session: `(model, target=..., **options) -> Bundle`.

    The options are those of `edgecompile build`, with underscores. Workers of pytest-xdist share the bundles,
    and all sessions the cache.
    """
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    return lambda model, **options: _build(shared / "edgecompile", model, options)


@pytest.fixture
def edgecompile_bundle(request: pytest.FixtureRequest, edgecompile_build: Callable[..., Bundle]) -> Bundle:
    """The bundle of the test's marker."""
    marked = _marked(request)
    return edgecompile_build(marked.model, **marked.options)


@pytest.fixture
def edgecompile_check(
    request: pytest.FixtureRequest, edgecompile_build: Callable[..., Bundle]
) -> Callable[..., Check]:
    """Return a function that builds the marker's model and fails where it is worse than its baseline.

    It takes `skip`, names of gates, and `tolerances`, in place of those in the baseline.
    """
    marked = _marked(request)

    def check(*, skip: tuple[str, ...] = (), tolerances: dict[str, float] | None = None) -> Check:
        __tracebackhide__ = True
        if marked.baseline is None:
            pytest.fail(f"the marker `{_MARKER}` needs baseline=FILE for a check", pytrace=False)
        bundle = edgecompile_build(marked.model, **marked.options)
        if request.config.getoption(_OPTION):
            _update(bundle.path, marked)
            request.node.user_properties.append((_WRITTEN, str(marked.baseline)))
        return _checked(bundle.path, marked.baseline, skip, tolerances or {})

    return check


def _marked(request: pytest.FixtureRequest) -> _Marked:
    marker = request.node.get_closest_marker(_MARKER)
    if marker is None or len(marker.args) != 1:
        example = f'@pytest.mark.{_MARKER}("model.py:make", target="android-arm64", ...)'
        pytest.fail(f"{request.node.nodeid} needs a marker that names its model: {example}", pytrace=False)
    from edgecompile.settings import beside

    file, said = request.path, dict(marker.kwargs)
    baseline = said.pop("baseline", None)
    count_on, memory = said.pop("count_on", None), bool(said.pop("memory", False))
    for name in ("calibration", "evaluation"):
        said[name] = beside(file, said.get(name))
    model = beside(file, marker.args[0])
    assert model is not None
    return _Marked(
        model=model,
        baseline=file.parent / baseline if baseline else None,
        count_on=count_on,
        memory=memory,
        options=said,
    )


def _build(folder: Path, model: str, options: dict[str, Any]) -> Bundle:
    __tracebackhide__ = True
    from filelock import FileLock

    from edgecompile.artifact import load_bundle
    from edgecompile.cache import key
    from edgecompile.compile import build
    from edgecompile.errors import EdgecompileError
    from edgecompile.settings import Options, resolve

    said: dict[str, Any] = dict(options)
    for name in ("target", "format"):
        said |= {name: (said[name],)} if isinstance(said.get(name), str) else {}
    output = folder / key(str(Path.cwd()), model, json.dumps(said, sort_keys=True, default=str))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        settings = resolve(model, Options(**said, output=str(output)))
        if len(settings.targets) != 1:
            pytest.fail(f"edgecompile builds for one target here, not {settings.targets}", pytrace=False)
        with FileLock(f"{output}.lock"):
            final = output / settings.targets[0]
            return load_bundle(final) if final.exists() else build(settings)[0]
    except TypeError as error:
        pytest.fail(f"the marker's options are not those of `edgecompile build`: {error}", pytrace=False)
    except EdgecompileError as error:
        pytest.fail(error.render(), pytrace=False)


def _update(bundle: Path, marked: _Marked) -> None:
    __tracebackhide__ = True
    from edgecompile.device import device_names
    from edgecompile.errors import EdgecompileError
    from edgecompile.regression.baseline import write_baseline
    from edgecompile.regression.check import make_baseline
    from edgecompile.regression.facts import EmulatedCore

    assert marked.baseline is not None
    core = None
    if marked.count_on is not None:
        is_device = marked.count_on in device_names()
        core = EmulatedCore(device=marked.count_on) if is_device else EmulatedCore(cpu=marked.count_on)
    try:
        made, _ = make_baseline(bundle, core=core, memory=marked.memory, earlier=marked.baseline)
        write_baseline(marked.baseline, made)
    except EdgecompileError as error:
        pytest.fail(error.render(), pytrace=False)


def _checked(bundle: Path, baseline: Path, skip: tuple[str, ...], tolerances: dict[str, float]) -> Check:
    __tracebackhide__ = True
    from edgecompile.errors import EdgecompileError
    from edgecompile.regression.check import check
    from edgecompile.regression.check_text import check_text

    try:
        found = check(bundle, baseline, skip=skip, overrides=tolerances)
    except EdgecompileError as error:
        pytest.fail(f"{error.render()}\n  pytest: `pytest {_OPTION}` writes the baseline", pytrace=False)
    if not found.passed:
        pytest.fail(f"{check_text(found)}\nif that was meant to be: `pytest {_OPTION}`", pytrace=False)
    return found
