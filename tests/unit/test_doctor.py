import importlib.metadata
import json

import pytest

from edgecompile import doctor
from edgecompile.cli.main import main


@pytest.mark.parametrize(
    ("version", "specifiers", "holds"),
    [
        ("2.13.0+cpu", ">=2.13,<2.15", True),
        ("2.15.0", ">=2.13,<2.15", False),
        ("2.9", "<2.15,>=2.13", False),
        ("1.5.1", "==1.5.1", True),
        ("10", ">=9.5", True),
        ("1.0", "", True),
    ],
)
def test_satisfies(version, specifiers, holds):
    assert doctor.satisfies(version, specifiers) is holds


def test_json_lists_what_was_looked_at(capsys):
    assert main(["doctor", "--json"]) == 0
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert {
        "python",
        "torch",
        "executorch",
        "C++ compiler",
        "cmake",
        "adb",
        "ssh",
        "free disk",
    } <= checks.keys()
    assert checks["torch"]["essential"] and not checks["cmake"]["essential"]
    assert "pytest" not in checks


def test_a_missing_library_is_exit_status_5(capsys, monkeypatch):
    real = importlib.metadata.version

    def version(name):
        if name == "executorch":
            raise importlib.metadata.PackageNotFoundError(name)
        return "0.0.1" if name == "torchao" else real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert main(["doctor"]) == 5
    printed = capsys.readouterr()
    assert "cmake" in printed.out
    assert printed.err.startswith("error[tool-missing]: `edgecompile build` needs executorch, torchao")


def test_missing_tools_are_not_essential(capsys, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert main(["doctor"]) == 0
    assert "native runners cannot be built" in capsys.readouterr().out
