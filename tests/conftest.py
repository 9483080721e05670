"""Options of the whole suite, and the command line in this process."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest

from edgecompile.cli.main import main

# A busy machine takes as long as it takes.
hypothesis.settings.register_profile("no-deadline", deadline=None)
hypothesis.settings.load_profile("no-deadline")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden files anew")


@pytest.fixture
def check_golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare a text with the golden file of that name beside the test, or write it anew."""
    folder = Path(str(request.path)).parent

    def check(name: str, text: str) -> None:
        path = folder / name
        if request.config.getoption("--update-golden"):
            path.write_text(text, encoding="utf-8")
        assert path.is_file(), f"{path} is missing: run pytest --update-golden, and read what it wrote"
        assert text == path.read_text(encoding="utf-8"), "read the difference; --update-golden accepts it"

    return check


@dataclass(frozen=True)
class Finished:
    """What a command line printed, and how it ended."""

    status: int
    out: str
    err: str


@pytest.fixture(scope="session")
def cli() -> Callable[..., Finished]:
    """Run a command line in this process, so that torch is imported once."""

    def run(*arguments: object) -> Finished:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main([str(argument) for argument in arguments])
        return Finished(status, out.getvalue(), err.getvalue())

    return run
