"""Budgets: what holds, in words, and in the artifacts."""

import math

import pytest

from edgecompile.budget import Budget, KeptLayer, MixedPrecision, Trial, mixed_precision_from_dict
from edgecompile.compare import Closeness
from edgecompile.errors import BudgetNotMetError
from edgecompile.evaluate import Quality
from edgecompile.mixed_precision_text import mixed_precision_text
from edgecompile.stages.mixed_precision import check_artifacts


@pytest.mark.parametrize(
    ("budget", "sqnr_db", "drop", "holds"),
    [
        (Budget(min_sqnr_db=30), 30.0, None, True),
        (Budget(min_sqnr_db=30), 29.99, None, False),
        (Budget(min_sqnr_db=30), math.inf, None, True),
        (Budget(min_sqnr_db=30), math.nan, None, False),
        (Budget(max_accuracy_drop=1), 5.0, 1.0, True),
        (Budget(max_accuracy_drop=1), 5.0, 100 * (0.82 - 0.81), True),
        (Budget(max_accuracy_drop=1), 50.0, 1.25, False),
        (Budget(max_accuracy_drop=1, min_sqnr_db=30), 50.0, 1.25, False),
        (Budget(max_accuracy_drop=1, min_sqnr_db=30), 20.0, 0.0, False),
        (Budget(max_accuracy_drop=0), 20.0, -0.5, True),
    ],
)
def test_what_holds(budget, sqnr_db, drop, holds):
    assert budget.holds(sqnr_db, drop) is holds


def test_nothing_is_asked_of_an_empty_budget():
    assert not Budget() and Budget(max_accuracy_drop=0) and Budget(min_sqnr_db=0)


def _row(name, sqnr_db, accuracy):
    found = Closeness(sqnr_db=sqnr_db, max_abs_error=0.1, agreement=None)
    return Quality(name=name, against_float=found, accuracy=accuracy)


def test_an_artifact_that_misses_a_budget_is_named():
    rows = [Quality(name="float", against_float=None, accuracy=0.9)]
    rows += [_row("reference", 31.0, 0.9), _row("pte", 30.5, 0.9), _row("onnx", 29.5, 0.88)]
    check_artifacts(rows[:3], Budget(min_sqnr_db=30, max_accuracy_drop=1))
    with pytest.raises(BudgetNotMetError, match="does not hold in onnx") as caught:
        check_artifacts(rows, Budget(min_sqnr_db=30))
    assert caught.value.lines["found"] == "29.50 dB, 2.00 points of top-1 lost"
    with pytest.raises(BudgetNotMetError, match="in onnx"):
        check_artifacts(rows, Budget(max_accuracy_drop=1))


def test_it_is_kept_whole_and_shown():
    layer = KeptLayer(name="conv2d_1", kind="conv2d", where="net.py:7", mac_share=0.25)
    trials = (
        Trial(layers=(), sqnr_db=20.0, accuracy_drop=None, holds=False),
        Trial(layers=("conv2d_1",), sqnr_db=None, accuracy_drop=0.5, holds=True),
    )
    mixed = MixedPrecision(
        budget="an SQNR of at least 30 dB", quantizable=8, layers=(layer,), nodes=("a", "b"), trials=trials
    )
    assert mixed_precision_from_dict(mixed.to_dict()) == mixed
    text = mixed_precision_text(mixed)
    assert "1 of 8 layers stay in float, with 25.0% of the work" in text
    assert "no error, 0.50 points of top-1 lost" in text and "20.00 dB" in text
