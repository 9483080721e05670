"""A pipeline that does not fit the model is told right after capture, before data is read or a pass runs."""

import pytest

MODEL = """
import pathlib
import torch
from torch import nn

def make():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 6)), (torch.rand(1, 3, 8, 8),)

def samples():
    pathlib.Path(__file__).with_name("read").touch()
    yield from torch.rand(4, 3, 8, 8)
"""


@pytest.mark.parametrize("captured", [False, True], ids=["first build", "captured before"])
@pytest.mark.parametrize(
    ("pipeline", "words"),
    [
        ('[pipeline.classes]\nlabels = "labels.txt"', ("one label for each class", "6 lines", "5 lines")),
        ('[pipeline.classes]\noutput = "scores"', ("there is no output 'scores'", "known: output")),
        ('[pipeline.picture]\nchannels = "grey"', ("a picture does not fit", "[1, 3, 8, 8]")),
    ],
    ids=["labels", "output", "picture"],
)
def test_it_is_told_before_the_long_work(cli, tmp_path, monkeypatch, pipeline, words, captured):
    monkeypatch.setenv("EDGECOMPILE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "net.py").write_text(MODEL)
    (tmp_path / "labels.txt").write_text("a\nb\nc\nd\ne\n")
    (tmp_path / "edgecompile.toml").write_text(pipeline)
    for _ in range(2 if captured else 1):
        finished = cli(
            "build", f"{tmp_path}/net.py:make", "--target", "android-arm64", "--calibration",
            f"{tmp_path}/net.py:samples", "--config", tmp_path / "edgecompile.toml",
            "--output", tmp_path / "out",
        )  # fmt: skip
    assert finished.status == 2
    assert "error[invalid-config]" in finished.err
    for word in words:
        assert word in finished.err
    assert "passes for" not in finished.err + finished.out
    assert not (tmp_path / "read").exists()
    assert not (tmp_path / "out").exists()
