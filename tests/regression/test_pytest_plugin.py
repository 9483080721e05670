"""The fixtures for an app's tests: in a pytest of their own, as an app's developer runs them."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import shapes
import torch

import edgecompile

EXAMPLES = Path(__file__).parents[2] / "examples"

APP = """
import pytest

BUILD = {
    "target": "android-arm64", "format": "pte", "calibration": "shapes.py:calibration",
    "evaluation": "shapes.py:evaluation", QUANTIZATION
}

@pytest.mark.edgecompile("shapes.py:model", baseline="shapes.json", **BUILD)
def test_ships(edgecompile_check):
    edgecompile_check()

@pytest.mark.edgecompile("shapes.py:model", **BUILD)
@pytest.mark.parametrize("number", [1, 2])
def test_is_small(edgecompile_bundle, number):
    assert edgecompile_bundle.artifacts[0].size_bytes < 100_000
"""
QUICK = (
    "'quantization': {'equalization': False, 'bias_absorption': False, 'weight_rounding': 'nearest', "
    "'bias_correction': False}"
)


def run(folder: Path, *options: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder)]
    tested = Path(edgecompile.__file__).parents[1]  # wherever this suite was started
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tested)}
    environment.pop("PYTEST_XDIST_WORKER", None)  # this suite's own
    finished = subprocess.run(
        [*command, "-c", os.devnull, *options, str(folder)],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        check=False,
    )
    return finished.returncode, finished.stdout + finished.stderr


@pytest.fixture
def app(tmp_path) -> Path:
    shutil.copy(shapes.__file__, tmp_path / "shapes.py")
    (tmp_path / "test_app.py").write_text(APP.replace("QUANTIZATION", QUICK))
    return tmp_path


def test_baseline_is_asked_for_written_held_and_missed(app):
    status, shown = run(app, "-k", "ships")
    assert status == 1 and "error[invalid-baseline]" in shown and "--edgecompile-update-baseline" in shown

    status, shown = run(app, "-n", "2", "--edgecompile-update-baseline")
    assert status == 0 and "3 passed" in shown
    assert re.search(r"edgecompile wrote \S*shapes.json: read it", shown)

    status, shown = run(app)
    assert status == 0 and "edgecompile wrote" not in shown

    source = app / "shapes.py"
    source.write_text(source.read_text().replace("found.T @ wanted)", "found.T @ wanted.flip(1))"))
    status, shown = run(app, "-k", "ships")
    assert status == 1 and "accuracy" in shown and "float-model" in shown and "Traceback" not in shown


def test_bundle_is_built_once_for_all_workers(app):
    log = app / "built.log"
    head = "def model() -> tuple[nn.Module, tuple[torch.Tensor]]:\n"
    source = (app / "shapes.py").read_text()
    assert head in source
    (app / "shapes.py").write_text(
        source.replace(head, f"{head}    open({str(log)!r}, 'a').write('built ')\n")
    )
    status, shown = run(app, "-n", "2", "-k", "small")
    assert status == 0 and "2 passed" in shown
    assert log.read_text() == "built "


# What each marker says, and what the test must fail with.
WRONG = (
    ("'shapes.py:model', target='android-arm46'", "error[unknown-target]"),
    ("'shapes.py:model', targets='android-arm64'", "unknown key 'targets'"),
    ("'shapes.py:model', target=3", "invalid value for 'target'"),
    (
        "'shapes.py:model', target=['android-arm64', 'ios-arm64'], calibration='shapes.py:calibration'",
        "a test builds for one target",
    ),
    ("'shapes.py:model', target='android-arm64', output='x'", "leave out 'output'"),
    ("'shapes.py:model', target='android-arm64', quantization='nearest'", "invalid value for 'quantization'"),
    ("'shapes.py:model', target='android-arm64', calibration=print", "error[unreadable-data]"),
    ("print, target='android-arm64'", "error[invalid-model-spec]"),
    ("'shapes.py:model', baseline=3", "invalid value for 'baseline'"),
    ("'shapes.py:model', count_on=3", "invalid value for 'count_on'"),
    ("target='android-arm64'", "needs a marker that names its model"),
)


def test_markers_that_cannot_be(app):
    tests = [
        f"@pytest.mark.edgecompile({marker})\ndef test_{number}(edgecompile_bundle):\n    pass\n"
        for number, (marker, _) in enumerate(WRONG)
    ]
    unmarked = "def test_unmarked(edgecompile_bundle):\n    pass\n"
    no_baseline = (
        "@pytest.mark.edgecompile('shapes.py:model', target='android-arm64')\n"
        "def test_no_baseline(edgecompile_check):\n    edgecompile_check()\n"
    )
    (app / "test_app.py").write_text("\n".join(["import pytest\n", *tests, unmarked, no_baseline]))
    status, shown = run(app)
    assert status == 1 and f"1 failed, {len(WRONG) + 1} errors" in shown and "needs baseline=FILE" in shown
    assert "During handling" not in shown and "AttributeError" not in shown
    parts = re.split(r"ERROR at setup of test_(\w+) ", shown)[1:]
    said = dict(zip(parts[::2], parts[1::2], strict=True))
    assert "needs a marker that names its model" in said["unmarked"]
    for number, (marker, text) in enumerate(WRONG):
        assert text in said[str(number)], marker


@pytest.mark.slow
def test_example_passes_and_fails_with_a_worse_model(tmp_path):
    copy = shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    status, shown = run(copy / "ci")
    assert status == 0 and "1 passed" in shown, shown

    exported = torch.export.load(copy / "ci/digits.pt2")
    generator = torch.Generator().manual_seed(0)
    for name, value in exported.state_dict.items():
        if name.endswith("weight"):
            value.data *= 1 + 0.3 * torch.randn(value.shape, generator=generator)
    torch.export.save(exported, copy / "ci/digits.pt2")
    status, shown = run(copy / "ci")
    assert status == 1 and "accuracy" in shown and "FAILED: float-model" in shown, shown
