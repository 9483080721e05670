"""The elimination of units against least squares solved anew for each choice."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecompile.pruning import elimination
from edgecompile.pruning.elimination import Columns, eliminate
from edgecompile.pruning.layer_inputs import Moments


def drawn_columns(generator, units, columns, outputs=5, others=3):
    """Return a layer in which each unit has some columns, and others have none."""
    length = units * columns + others
    mixed = torch.randn(length, length + 4, generator=generator, dtype=torch.float64)
    rows = torch.randn(outputs, length, generator=generator, dtype=torch.float64)
    places = torch.randperm(length, generator=generator)[: units * columns]
    return Columns(rows=rows, covariance=mixed @ mixed.T / length, of_unit=places.reshape(units, columns))


def least_error(reader, removed):
    """Return the squared error that is left without some units, once the other weights are fitted."""
    power = reader.covariance.diagonal().mean()
    damped = reader.covariance + elimination._DAMPING * power * torch.eye(len(reader.covariance)).double()
    gone = reader.of_unit[removed].flatten()
    gone = gone[gone >= 0]
    stays = torch.ones(len(damped), dtype=torch.bool)
    stays[gone] = False
    wanted = reader.rows @ damped[:, stays]
    fitted = torch.linalg.solve(damped[stays][:, stays], wanted.T).T
    difference = reader.rows.clone()
    difference[:, stays] -= fitted
    return float(((difference @ damped) * difference).sum())


def brute_force(count, readers):
    """Return what each unit adds when the one that adds least goes first, and what is never cheaper."""
    removed, found, before, least = [], torch.zeros(count, dtype=torch.float64), 0.0, 0.0
    while len(removed) < count:
        left = [unit for unit in range(count) if unit not in removed]
        totals = {unit: sum(least_error(reader, [*removed, unit]) for reader in readers) for unit in left}
        best = min(totals, key=totals.__getitem__)
        least = max(least, totals[best] - before)
        found[best], before = least, totals[best]
        removed.append(best)
    return found


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.integers(2, 6), st.lists(st.integers(1, 3), min_size=1, max_size=2))
def test_it_is_the_error_of_least_squares(seed, units, several):
    generator = torch.Generator().manual_seed(seed)
    readers = [drawn_columns(generator, units, columns) for columns in several]
    assert torch.allclose(eliminate(units, readers), brute_force(units, readers), rtol=1e-6)


def test_units_with_more_columns_than_others_or_none():
    generator = torch.Generator().manual_seed(3)
    one, other = (drawn_columns(generator, 5, columns) for columns in (2, 1))
    one.of_unit[1, 1] = -1
    one.of_unit[3] = -1
    other.of_unit[:2] = -1
    found = eliminate(5, [one, other])
    assert torch.allclose(found, brute_force(5, [one, other]), rtol=1e-6)
    assert bool((found > 0).all())


def test_a_unit_that_no_layer_reads_is_free():
    reader = drawn_columns(torch.Generator().manual_seed(4), 4, 2)
    reader.of_unit[2] = -1
    found = eliminate(4, [reader])
    assert found.argmin() == 2
    assert found[2] == 0


def test_of_two_equal_channels_one_is_free_and_the_other_is_not():
    generator = torch.Generator().manual_seed(5)
    read = torch.randn(1000, 4, generator=generator, dtype=torch.float64)
    read[:, 3] = read[:, 1]
    rows = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    reader = Columns(rows=rows, covariance=read.T @ read / 1000, of_unit=torch.arange(4)[:, None])
    found = eliminate(4, [reader])
    twins, whole = found[[1, 3]].sort().values, float(rows.square().sum())
    assert twins[0] < 0.02 * whole
    assert twins[1] > 0.1 * whole
    assert sorted(found.argsort()[:1].tolist()) in ([1], [3])


def test_many_units_go_in_rounds(monkeypatch):
    reader = drawn_columns(torch.Generator().manual_seed(6), 40, 1, others=10)
    one_by_one = eliminate(40, [reader])
    monkeypatch.setattr(elimination, "_ROUNDS", 10)
    in_rounds = eliminate(40, [reader])
    assert torch.corrcoef(torch.stack([one_by_one, in_rounds]))[0, 1] > 0.9


def test_few_rows_do_not_make_up_for_everything():
    """With fewer rows than columns, each column is a combination of the others: by chance."""
    generator = torch.Generator().manual_seed(7)
    rows = torch.randn(8, 32, generator=generator, dtype=torch.float64)
    read = torch.randn(8, 32, generator=generator, dtype=torch.float64)
    second = read.T @ read / len(read)
    moments = Moments(count=len(read), power=second.diagonal(), covariance=second)
    columns = torch.arange(32)[:, None]
    shrunk = eliminate(32, [Columns(rows=rows, covariance=moments.shrunk(), of_unit=columns)])
    naive = eliminate(32, [Columns(rows=rows, covariance=second, of_unit=columns)])
    true = eliminate(32, [Columns(rows=rows, covariance=torch.eye(32).double(), of_unit=columns)])
    assert float(naive.min() / true.min()) < 0.1
    assert float(shrunk.min() / true.min()) > 0.3


def test_many_rows_are_believed():
    covariance = torch.full((4, 4), 0.5, dtype=torch.float64) + 0.5 * torch.eye(4).double()
    moments = Moments(count=10**6, power=torch.ones(4), covariance=covariance)
    assert torch.allclose(moments.shrunk(), covariance, atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 1e-9, 1e9])
def test_any_scale_is_finite(value):
    reader = drawn_columns(torch.Generator().manual_seed(8), 4, 2)
    scaled = Columns(rows=reader.rows, covariance=value * reader.covariance, of_unit=reader.of_unit)
    assert bool(eliminate(4, [scaled]).isfinite().all())
