import math

import numpy as np
import pytest

from edgecompile.classes import top_classes


def test_the_best_first_and_of_equal_ones_the_first():
    found = top_classes(
        np.array([[1, 3, 3, 2]], np.float32), softmax=False, top_k=3, labels=("a", "b", "c", "d")
    )
    assert [(item.index, item.label, item.score) for item in found] == [(1, "b", 3), (2, "c", 3), (3, "d", 2)]


def test_softmax_shares_one():
    found = top_classes(np.array([1000, 999, -4], np.float32), softmax=True, top_k=3, labels=None)
    assert [item.label for item in found] == ["0", "1", "2"]
    assert found[0].score == pytest.approx(1 / (1 + math.exp(-1)), rel=1e-12)
    assert sum(item.score for item in found) == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize(
    ("output", "scores"),
    [
        ([math.nan, 1, 1], [0.5, 0.5, 0]),
        ([math.inf, 0, math.inf], [0.5, 0.5, 0]),
        ([math.nan, math.nan, math.nan], [1 / 3] * 3),
    ],
)
def test_what_is_no_number(output, scores):
    found = top_classes(np.array(output, np.float32), softmax=True, top_k=3, labels=None)
    assert [item.score for item in found] == pytest.approx(scores)
