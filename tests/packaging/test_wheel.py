"""The wheel as a user gets it: built, installed in an empty place, used from an empty folder."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Installed:
    wheel: Path
    environment: Path
    empty_folder: Path

    def run(self, program: str, *arguments: str) -> str:
        command = [str(self.environment / "bin" / program), *arguments]
        done = subprocess.run(command, cwd=self.empty_folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("packaging")
    _run("build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT))
    (wheel,) = folder.glob("*.whl")
    environment = folder / "venv"
    venv.create(environment)
    python = environment / "bin/python"
    _run("pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index", str(wheel))
    # The dependencies come from this test's environment. Its own .pth files, and with them the
    # editable edgecompile, are not followed from there.
    (site_packages,) = environment.glob("lib/python*/site-packages")
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    empty_folder = folder / "empty"
    empty_folder.mkdir()
    return Installed(wheel=wheel, environment=environment, empty_folder=empty_folder)


def _run(module: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_wheel_and_not_the_checkout_is_imported(installed: Installed) -> None:
    path = installed.run("python", "-c", "import edgecompile; print(edgecompile.__file__)")
    assert Path(path.strip()).is_relative_to(installed.environment)


def test_targets_devices_and_runners_ship_and_tests_and_examples_do_not(installed: Installed) -> None:
    files = ZipFile(installed.wheel).namelist()
    for folder in ("targets", "device_profiles"):
        for path in (ROOT / folder).glob("*.toml"):
            assert f"edgecompile/_shipped/{folder}/{path.name}" in files
    for path in (ROOT / "runners").rglob("*"):
        if path.is_file() and "build" not in path.relative_to(ROOT / "runners").parts:
            assert f"edgecompile/_shipped/{path.relative_to(ROOT).as_posix()}" in files
    top_level = {file.partition("/")[0] for file in files}
    assert top_level == {"edgecompile", installed.wheel.name.rsplit("-", 3)[0] + ".dist-info"}
    assert not [file for file in files if "__pycache__" in file or "/test_" in file]
    assert any(file.endswith("/licenses/LICENSE") for file in files)


def test_the_pytest_plugin_is_an_entry_point(installed: Installed) -> None:
    with ZipFile(installed.wheel) as wheel:
        (name,) = (file for file in wheel.namelist() if file.endswith("/entry_points.txt"))
        assert "[pytest11]\nedgecompile = edgecompile.pytest_plugin" in wheel.read(name).decode()


def test_every_module_ships(installed: Installed) -> None:
    files = ZipFile(installed.wheel).namelist()
    for module in (ROOT / "edgecompile").rglob("*.py"):
        assert module.relative_to(ROOT).as_posix() in files


def test_the_templates_of_the_report_ship(installed: Installed) -> None:
    files = ZipFile(installed.wheel).namelist()
    templates = [*(ROOT / "edgecompile/report_page/templates").iterdir()]
    assert {path.suffix for path in templates} == {".css", ".j2"}
    for path in templates:
        assert path.relative_to(ROOT).as_posix() in files


def test_the_command_line_works(installed: Installed) -> None:
    assert "build" in installed.run("edgecompile", "--help")
    assert "android-arm64" in installed.run("edgecompile", "targets")
    json.loads(installed.run("edgecompile", "targets", "--json"))
    assert "pixel-6" in installed.run("edgecompile", "devices")
