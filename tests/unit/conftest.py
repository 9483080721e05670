"""Targets that do not depend on which emitters exist."""

import shutil

import pytest

from edgecompile import catalogue, shipped


@pytest.fixture
def targets_folder(tmp_path, monkeypatch):
    """A copy of targets/ to change, with a fixed list of emitters."""
    folder = tmp_path / "targets"
    shutil.copytree(shipped.targets_folder(), folder)
    monkeypatch.setattr(shipped, "targets_folder", lambda: folder)
    names = catalogue.names
    emitters = ("executorch", "onnx", "torchscript-lite")
    monkeypatch.setattr(catalogue, "names", lambda p: emitters if p.endswith("emitters") else names(p))
    return folder
