"""A bundle with everything in it, and a browser where there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import written_bundle as written
from headless_chromium import headless_chromium


@pytest.fixture
def report(cli, tmp_path, monkeypatch) -> Callable[..., Any]:
    """Run `edgecompile report` in an empty folder."""
    folder = tmp_path / "current"
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    return lambda *arguments: cli("report", *arguments)


@pytest.fixture
def bundle(tmp_path) -> Path:
    return written.write_bundle(tmp_path / "bundle", written.full_report())


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    with headless_chromium(("browser", "performance")) as driver:
        yield driver
