"""What an app's own tests say of its model."""

import pytest


@pytest.mark.edgecompile(
    "digits.pt2",
    target="android-arm64",
    calibration="../digits.py:calibration",
    evaluation="../digits.py:evaluation",
    format="pte",
    max_accuracy_drop=1.0,  # in points, of INT8 beside the float model
    baseline="digits.baseline.json",
)
def test_digits_ship(edgecompile_check):
    """The model is as good as when its baseline was reviewed."""
    edgecompile_check()
