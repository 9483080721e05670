"""A bundle with everything in it, and a browser where there is one."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import written_bundle as written

CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))


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
    """Headless Chromium; skips where it or its driver is not installed."""
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("Chromium or its driver is not installed (apt-get install chromium chromium-driver)")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    # In a container this may run as root and with a small /dev/shm.
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()
