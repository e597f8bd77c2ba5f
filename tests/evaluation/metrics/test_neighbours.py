import numpy as np
import pytest
from scipy.spatial.distance import cdist

from jaxdiff.evaluation.metrics import neighbours
from jaxdiff.evaluation.metrics.neighbours import (
    density_coverage,
    precision_recall,
    radii,
    rows_needed,
)

RNG = np.random.RandomState(0)


def brute_radii(rows, k):
    distances = cdist(rows, rows)
    np.fill_diagonal(distances, np.inf)
    return np.sort(distances, axis=1)[:, k - 1]


def brute(real, fake, k, closed):
    """(precision, recall, density, coverage) of all distances in float64."""
    real, fake = np.float64(real), np.float64(fake)
    distances = cdist(fake, real)
    within = np.less_equal if closed else np.less
    in_real = within(distances, brute_radii(real, k))
    in_fake = within(distances, brute_radii(fake, k)[:, None])
    shares = in_real.any(1).mean(), in_fake.any(0).mean()
    return *shares, in_real.sum() / (k * len(fake)), in_real.any(0).mean()


def check(real, fake, k):
    closed, opened = brute(real, fake, k, True), brute(real, fake, k, False)
    assert precision_recall(real, fake, k=k) == pytest.approx(closed[:2], abs=1e-12)
    assert precision_recall(real, fake, k=k, ball="open") == pytest.approx(opened[:2], abs=1e-12)
    assert density_coverage(real, fake, k=k) == pytest.approx(opened[2:], abs=1e-12)


@pytest.mark.parametrize("dimension", [1, 2, 40])
def test_all_are_those_of_float64_in_several_blocks(dimension, monkeypatch):
    monkeypatch.setattr(neighbours, "BLOCK", 100)
    real = RNG.randn(150, dimension).astype(np.float32)
    fake = (0.8 * RNG.randn(210, dimension) + 0.2).astype(np.float32)
    check(real, fake, 3)
    np.testing.assert_allclose(radii(fake, 2), brute_radii(np.float64(fake), 2), rtol=1e-12)


def test_far_from_zero_and_in_tight_clusters():
    # In float32 all rows of a cluster have distance 0, or none.
    def rows(count):
        centers = np.repeat(100 * np.arange(4.0), count // 4)[:, None] * np.ones(5)
        return 1e4 + centers + 1e-4 * RNG.randn(count, 5)

    real, fake = rows(60), rows(80)
    np.testing.assert_allclose(radii(real, 3), brute_radii(real, 3), rtol=1e-9)
    check(real, fake, 3)


def test_copies_and_duplicates():
    real = RNG.randn(60, 8).astype(np.float32)
    fake = np.concatenate([np.repeat(real[:8], 5, axis=0), RNG.randn(30, 8).astype(np.float32)])
    check(real, fake, 3)
    closed, opened = precision_recall(real, fake), precision_recall(real, fake, ball="open")
    assert closed[1] > opened[1]
    assert not radii(fake, 4)[:40].any()


def test_neighbours_that_are_all_as_near():
    # On a lattice most distances are equal, more than there are candidates.
    real = np.stack(np.meshgrid(*[np.arange(4.0)] * 3), axis=-1).reshape(-1, 3)
    check(real, real + np.array([1.0, 0, 0]), 3)


def test_a_set_with_itself():
    rows = RNG.randn(50, 6).astype(np.float32)
    assert precision_recall(rows, rows) == (1, 1)
    assert density_coverage(rows, rows, k=5) == pytest.approx((1, 1))


def test_equal_rows_everywhere():
    ones = np.ones((9, 4), np.float32)
    assert precision_recall(ones, ones) == (1, 1)
    assert precision_recall(ones, ones, ball="open") == (0, 0)
    assert precision_recall(ones, 2 * ones) == (0, 0)
    assert density_coverage(ones, ones) == (0, 0)


def test_known_radii_are_taken():
    real, fake = RNG.randn(30, 4), RNG.randn(40, 4) + 0.5
    balls = radii(real, 3), radii(fake, 3)
    assert precision_recall(real, fake, balls=balls) == precision_recall(real, fake)
    none = np.full(30, -1.0), np.full(40, -1.0)
    assert precision_recall(real, fake, balls=none) == (0, 0)
    assert density_coverage(real, fake, k=3, balls=balls[0]) == density_coverage(real, fake, k=3)


def test_one_sample_and_too_few_rows():
    real = RNG.randn(30, 4)
    assert density_coverage(real, real[:1] + 100) == (0, 0)
    assert len(radii(real[: rows_needed(3)], 3)) == 4
    with pytest.raises(ValueError, match="neighbour number 3"):
        precision_recall(real, real[:3])
