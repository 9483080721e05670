"""The numbers behind the gates: bits and blocks of samples, paired tests, sketches."""

import math
import random
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgecompile.compare import closeness, sample_scores
from edgecompile.evaluate import Quality
from edgecompile.regression.paired_tests import bootstrap_sqnr_drop, mcnemar
from edgecompile.regression.sketch import sketch, sketched_sqnr_db
from edgecompile.report import quality_dict
from edgecompile.sample_scores import blocks_of, pack, unpack


@given(st.lists(st.booleans(), max_size=200))
def test_bits_come_back(bits):
    assert unpack(pack(bits), len(bits)) == bits


@pytest.mark.parametrize(("text", "count"), [("ff", 9), ("ff", 4), ("g", 4), ("", 1)])
def test_bits_of_other_samples(text, count):
    with pytest.raises(ValueError):
        unpack(text, count)


@given(st.integers(1, 500))
def test_blocks_hold_each_sample_once(count):
    blocks = blocks_of(count)
    assert [index for block in blocks for index in block] == list(range(count))
    sizes = {len(block) for block in blocks}
    assert len(blocks) == min(count, 32) and max(sizes) - min(sizes) <= 1


def test_scores_add_up_to_the_closeness():
    generator = torch.Generator().manual_seed(0)
    wanted = [tuple(torch.randn(1, 4, generator=generator) for _ in range(2)) for _ in range(50)]
    found = [tuple(value + 0.3 * torch.randn(1, 4, generator=generator) for value in own) for own in wanted]
    labels = [own[0].argmax().item() for own in wanted]
    scores, whole = sample_scores(found, wanted, labels), closeness(found, wanted)
    signal, noise = scores.energies()  # (2, 32) each
    assert 10 * math.log10(signal.sum() / noise.sum()) == pytest.approx(whole.sqnr_db, abs=1e-4)
    assert sum(unpack(scores.same_top1, 50)) / 50 == whole.agreement
    assert scores.correct == scores.same_top1  # the labels are float's top-1
    first = closeness([(own[0],) for own in found], [(own[0],) for own in wanted])
    assert 10 * math.log10(signal[0].sum() / noise[0].sum()) == pytest.approx(first.sqnr_db, abs=1e-4)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_error_of_outputs_that_are_no_numbers(bad):
    """It is the worst that there is, and neither none nor what JSON cannot hold."""
    wanted = [(torch.ones(1, 3),)] * 2
    found = closeness([(torch.full((1, 3), bad),), (torch.ones(1, 3),)], wanted)
    row = quality_dict(Quality(name="pte", against_float=found, accuracy=None))
    assert row["against_float"]["max_abs_error"] == sys.float_info.max
    assert row["against_float"]["sqnr_db"] == -100


def test_outputs_that_are_no_numbers():
    wanted = [(torch.ones(1, 3),)] * 2
    broken = [(torch.full((1, 3), math.nan),), (torch.ones(1, 3),)]
    scores = sample_scores(broken, wanted, None)
    assert scores.noise == ((None, 0.0),)
    assert scores.energies().tolist() == [[[3.0, 3.0]], [[math.inf, 0.0]]]


@pytest.mark.parametrize(
    ("lost", "won", "p_value"),
    [
        (0, 0, 1.0),
        (1, 0, 0.5),
        (5, 0, 1 / 32),
        (7, 1, 9 / 256),  # (8 + 1) / 2^8
        (3, 3, 42 / 64),
    ],
)
def test_mcnemar_is_the_binomial_tail(lost, won, p_value):
    before = [True] * lost + [False] * won + [True] * 10 + [False] * 3
    now = [False] * lost + [True] * won + [True] * 10 + [False] * 3
    found = mcnemar(before, now)
    assert (found.lost, found.won) == (lost, won)
    assert found.p_value == pytest.approx(p_value)


def test_mcnemar_rarely_takes_noise_for_a_loss():
    source = random.Random(0)
    alarms = 0
    for _ in range(2000):
        before = [source.random() < 0.9 for _ in range(100)]
        now = [value if source.random() > 0.1 else source.random() < 0.9 for value in before]
        alarms += mcnemar(before, now).p_value < 0.05
    assert alarms / 2000 < 0.05


def _energies(noise, signal=1.0) -> np.ndarray:
    return np.array([[signal] * len(noise), noise])


def test_bootstrap_finds_a_drop_of_all_blocks():
    noise = np.random.default_rng(0).uniform(0.005, 0.02, 32)
    found = bootstrap_sqnr_drop(_energies(noise), _energies(noise * 2), significance=0.01)
    assert found.drop_db == pytest.approx(10 * math.log10(2)) and found.low_db == pytest.approx(found.drop_db)


def test_bootstrap_takes_one_bad_block_for_chance():
    noise = np.full(32, 0.01)
    worse = noise.copy()
    worse[7] = 0.3
    found = bootstrap_sqnr_drop(_energies(noise), _energies(worse), significance=0.01)
    assert found.drop_db > 2 and found.low_db <= 0


@pytest.mark.parametrize("bad", [math.inf, 1e9])
def test_bootstrap_of_broken_outputs(bad):
    found = bootstrap_sqnr_drop(_energies([0.01] * 8), _energies([bad] * 8), significance=0.01)
    assert found.drop_db > 50 and found.low_db > 50


def test_bootstrap_of_outputs_without_error():
    exact = _energies([0.0] * 8)
    assert bootstrap_sqnr_drop(exact, exact, significance=0.01).drop_db == 0
    zeros = _energies([0.0] * 8, signal=0.0)
    assert bootstrap_sqnr_drop(zeros, _energies([1.0] * 8, signal=0.0), significance=0.01).low_db > 100


def test_bootstrap_takes_no_broken_block_for_chance():
    """Of 32 blocks a good third of the drawn sets are without it."""
    noise = np.full(32, 0.01)
    broken = noise.copy()
    broken[7] = math.inf
    found = bootstrap_sqnr_drop(_energies(noise), _energies(broken), significance=0.01)
    assert found.is_sure and "1 blocks" in found.text()
    already = bootstrap_sqnr_drop(_energies(broken), _energies(broken), significance=0.01)
    assert not already.is_sure and already.drop_db == 0


def test_bootstrap_of_too_few_samples_is_not_sure():
    """Of one or two, every drawn set may be worse by chance alone."""
    found = bootstrap_sqnr_drop(_energies([0.01] * 6), _energies([0.02] * 6), significance=0.01)
    assert not found.is_sure and found.drop_db > 3 and found.text() == "too few samples"
    assert bootstrap_sqnr_drop(_energies([0.01] * 7), _energies([0.02] * 7), significance=0.01).is_sure


def test_mcnemar_of_many_samples_is_quick():
    losses, wins = 10_300, 10_000
    found = mcnemar([True] * losses + [False] * wins, [False] * losses + [True] * wins)
    normal = 0.5 * math.erfc((losses - wins - 1) / math.sqrt(2 * (losses + wins)))
    assert found.p_value == pytest.approx(normal, rel=1e-3)


def test_sketch_tells_how_far_outputs_are_apart():
    generator = np.random.default_rng(0)
    outputs = [[generator.standard_normal((1, 1000))] for _ in range(8)]
    for level_db in (10, 30, 60):
        off = [[own[0] + 10 ** (-level_db / 20) * generator.standard_normal((1, 1000))] for own in outputs]
        assert sketched_sqnr_db(sketch(off), sketch(outputs)) == pytest.approx(level_db, abs=1.5)
    assert sketched_sqnr_db(sketch(outputs), sketch(outputs)) == math.inf


def test_sketch_never_changes():
    """Baselines are kept for years: these are the first projections of the first one."""
    assert sketch([[np.arange(6.0).reshape(2, 3)]])[:4] == (9.0, 5.0, -13.0, 1.0)


def test_sketches_of_huge_numbers_are_compared():
    """Of masked logits, or written by hand."""
    masked = [[np.array([[1.0, -np.inf]])]]
    assert sketched_sqnr_db(sketch(masked), sketch(masked)) == math.inf
    assert sketched_sqnr_db([1e308, 1.0], [-1e308, 1.0]) == pytest.approx(-6.02, abs=0.01)


def test_sketches_of_other_outputs():
    small, large = sketch([[np.ones((1, 3))]]), sketch([[np.ones((1, 3))], [np.ones((1, 3))]])
    with pytest.raises(ValueError, match="sketch of 16 numbers is not one of 32"):
        sketched_sqnr_db(small, large)
