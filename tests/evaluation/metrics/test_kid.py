import numpy as np
import pytest

from jaxdiff.evaluation.metrics.kid import kid, rows_needed

RNG = np.random.RandomState(0)


def by_loops(x, y):
    """The estimate of two sets of m rows, from its definition."""
    m, kernel = len(x), lambda a, b: (np.dot(a, b) / len(a) + 1) ** 3
    within = sum(kernel(z[i], z[j]) for z in (x, y) for i in range(m) for j in range(m) if i != j)
    return within / (m * (m - 1)) - 2 * sum(kernel(a, b) for a in x for b in y) / m**2


@pytest.mark.parametrize("dimension", [1, 6])
def test_all_rows_are_the_definitions(dimension):
    fake, real = RNG.rand(9, dimension), RNG.rand(9, dimension) + 0.2
    mean, deviation = kid(real, fake, subsets=3, size=9)
    assert mean == pytest.approx(by_loops(fake, real), rel=1e-10)
    assert deviation == pytest.approx(0, abs=1e-12)


def test_subsets_are_drawn_of_the_samples_first():
    fake, real = RNG.rand(20, 3).astype(np.float32), RNG.rand(30, 3).astype(np.float32)
    random, expected = np.random.RandomState(7), []
    for _ in range(4):
        x = fake[random.choice(20, 8, replace=False)]
        expected.append(by_loops(*map(np.float64, (x, real[random.choice(30, 8, replace=False)]))))
    got = kid(real, fake, subsets=4, size=8, seed=7)
    assert got == pytest.approx((np.mean(expected), np.std(expected)), rel=1e-10)


def test_it_has_no_bias():
    # The mean over many pairs of small sets of one distribution is 0; it is symmetric about it.
    values = [kid(RNG.randn(8, 4), RNG.randn(8, 4), subsets=1, size=8)[0] for _ in range(2000)]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(len(values))
    assert np.mean(np.array(values) < 0) > 0.3


def test_constant_features():
    ones = np.ones((5, 3))
    assert kid(ones, ones, subsets=2, size=5) == pytest.approx((0, 0), abs=1e-12)
    # k(1, 1) + k(2, 2) - 2 k(1, 2) = 8 + 125 - 54
    assert kid(ones, 2 * ones, subsets=2, size=5)[0] == pytest.approx(79)


def test_too_few_rows():
    assert rows_needed(1000) == 1000
    with pytest.raises(ValueError, match="Subsets of 8 rows"):
        kid(RNG.rand(7, 3), RNG.rand(20, 3), size=8)
