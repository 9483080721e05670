"""Ten kinds of networks lose half of their MACs and become valid artifacts in every format."""

import numpy as np
import pruned_networks
import pytest
import torch

from edgecompile.artifact import load_bundle
from edgecompile.cli.main import main

SAMPLES = 8

# test_build_pruned.py prunes in whole builds, too, and test_ten_networks.py has the proof for all ten.
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", pruned_networks.NETWORKS)
def test_half_is_pruned_and_every_format_is_valid(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("EDGECOMPILE_CACHE", str(tmp_path / "cache"))
    _, inputs = pruned_networks.NETWORKS[name]()
    generator = torch.Generator().manual_seed(1)
    for data in ("calibration", "evaluation"):
        folder = tmp_path / data
        folder.mkdir()
        for index in range(SAMPLES):
            np.save(folder / f"{index}.npy", like(inputs[0], generator).numpy())
    status = main(
        [
            *("build", f"{pruned_networks.__file__}:{name}", "--target", "linux-x86-64", "--prune", "0.5"),
            *("--calibration", str(tmp_path / "calibration"), "--evaluation", str(tmp_path / "evaluation")),
            *("--output", str(tmp_path / "out")),
        ]
    )
    assert status == 0, capsys.readouterr().err
    bundle = load_bundle(tmp_path / "out" / "linux-x86-64")
    pruning = bundle.report_dict()["pruning"]
    assert pruning["removed"] == pytest.approx(0.5, abs=0.03)
    assert pruning["proof_samples"] == SAMPLES
    assert pruning["proof_error"] < 1e-5
    removed, fitted = pruning["recovery"]
    assert fitted["sqnr_db"] > removed["sqnr_db"]
    assert {item.format for item in bundle.artifacts} == {"pte", "ptl", "onnx"}
    assert main(["validate", str(bundle.path)]) == 0, capsys.readouterr().out


def like(value, generator):
    """Return another input of the same kind."""
    if value.is_floating_point():
        return torch.randn(value.shape, generator=generator)
    return torch.randint(0, 200, value.shape, generator=generator, dtype=value.dtype)
