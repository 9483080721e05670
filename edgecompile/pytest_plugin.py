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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
    baseline: Path | None = None
    count_on: str | None = None
    memory: bool = False
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

    def check(*, skip: str | Sequence[str] = (), tolerances: dict[str, float] | None = None) -> Check:
        __tracebackhide__ = True
        if marked.baseline is None:
            pytest.fail(f"the marker `{_MARKER}` needs baseline=FILE for a check", pytrace=False)
        bundle = edgecompile_build(marked.model, **marked.options)
        if request.config.getoption(_OPTION):
            _update(bundle.path, marked)
            request.node.user_properties.append((_WRITTEN, str(marked.baseline)))
        gates = (skip,) if isinstance(skip, str) else tuple(skip)
        return _checked(bundle.path, marked.baseline, gates, tolerances or {})

    return check


@contextmanager
def _failing(hint: str = "") -> Iterator[None]:
    """Let the test fail with what an error of ours says, without a traceback."""
    from edgecompile.errors import EdgecompileError

    try:
        yield
    except EdgecompileError as error:
        raise pytest.fail.Exception(error.render() + hint, pytrace=False) from None


def _marked(request: pytest.FixtureRequest) -> _Marked:
    marker = request.node.get_closest_marker(_MARKER)
    if marker is None or len(marker.args) != 1:
        example = f'@pytest.mark.{_MARKER}("model.py:make", target="android-arm64", ...)'
        pytest.fail(f"{request.node.nodeid} needs a marker that names its model: {example}", pytrace=False)
    from edgecompile.errors import UsageError
    from edgecompile.settings import beside
    from edgecompile.strict_toml import parse

    file, options = request.path, dict(marker.kwargs)
    own = {name: options.pop(name) for name in ("baseline", "count_on", "memory") if name in options}
    for name in ("calibration", "evaluation"):
        if name in options:
            options[name] = beside(file, str(options[name]))
    said = {"model": beside(file, str(marker.args[0])), **own, "options": options}
    with _failing():
        marked = parse(_Marked, said, UsageError, lambda _: f"the marker of {request.node.nodeid}")
    return replace(marked, baseline=file.parent / marked.baseline if marked.baseline else None)


def _build(folder: Path, model: str | Path, options: dict[str, Any]) -> Bundle:
    from filelock import FileLock

    from edgecompile.artifact import load_bundle
    from edgecompile.cache import key
    from edgecompile.compile import build
    from edgecompile.errors import UsageError
    from edgecompile.settings import Options, resolve
    from edgecompile.strict_toml import parse

    said = {name.replace("_", "-"): value for name, value in options.items()}
    for name in ("target", "format"):
        said |= {name: (said[name],)} if isinstance(said.get(name), str) else {}
    output = folder / key(str(Path.cwd()), str(model), json.dumps(said, sort_keys=True, default=str))
    folder.mkdir(parents=True, exist_ok=True)
    with _failing():
        if "output" in said:
            raise UsageError("where a bundle goes is not said in tests: leave out 'output'")
        flags = parse(Options, said, UsageError, lambda _: "the options of the build")
        settings = resolve(str(model), replace(flags, output=str(output)))
        if len(settings.targets) != 1:
            raise UsageError(f"a test builds for one target, not {', '.join(settings.targets)}")
        with FileLock(f"{output}.lock"):
            final = output / settings.targets[0]
            return load_bundle(final) if final.exists() else build(settings)[0]


def _update(bundle: Path, marked: _Marked) -> None:
    from edgecompile.device import device_names
    from edgecompile.regression.baseline import write_baseline
    from edgecompile.regression.check import make_baseline
    from edgecompile.regression.facts import EmulatedCore

    assert marked.baseline is not None
    core = None
    if marked.count_on is not None:
        is_device = marked.count_on in device_names()
        core = EmulatedCore(device=marked.count_on) if is_device else EmulatedCore(cpu=marked.count_on)
    with _failing():
        made, _ = make_baseline(bundle, core=core, memory=marked.memory, earlier=marked.baseline)
        write_baseline(marked.baseline, made)


def _checked(bundle: Path, baseline: Path, skip: tuple[str, ...], tolerances: dict[str, float]) -> Check:
    __tracebackhide__ = True
    from edgecompile.regression.check import check
    from edgecompile.regression.check_text import check_text

    with _failing(f"\n  pytest: `pytest {_OPTION}` writes the baseline"):
        found = check(bundle, baseline, skip=skip, overrides=tolerances)
    if not found.passed:
        pytest.fail(f"{check_text(found)}\nif that was meant to be: `pytest {_OPTION}`", pytrace=False)
    return found
