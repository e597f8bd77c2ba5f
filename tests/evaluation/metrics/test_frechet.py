import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.stats import linregress

from jaxdiff.evaluation.metrics import frechet
from jaxdiff.evaluation.metrics.frechet import Moments, Sums, distance, fd_infinity

RNG = np.random.RandomState(0)


def random_moments(size):
    a = RNG.randn(size, size)
    return Moments(RNG.randn(size), a @ a.T / size)


def test_two_normal_distributions_of_one_number():
    a, b = Moments(np.array([1.0]), np.array([[4.0]])), Moments(np.array([3.5]), np.array([[9.0]]))
    assert distance(a, b) == pytest.approx(2.5**2 + (2 - 3) ** 2)


def test_covariances_of_the_same_axes():
    rotation, _ = np.linalg.qr(RNG.randn(5, 5))
    sizes = RNG.rand(2, 5) + 0.1
    a, b = (Moments(np.zeros(5), (rotation * s**2) @ rotation.T) for s in sizes)
    assert distance(a, b) == pytest.approx(((sizes[0] - sizes[1]) ** 2).sum())


def test_any_covariances_as_by_the_square_root_of_their_product():
    a, b = random_moments(6), random_moments(6)
    cross = np.trace(sqrtm(a.covariance @ b.covariance)).real
    expected = ((a.mean - b.mean) ** 2).sum()
    expected += np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross
    assert distance(a, b) == pytest.approx(expected)
    assert distance(b, a) == pytest.approx(expected)


def test_fewer_rows_than_dimensions_as_by_singular_values():
    # tr (S_1 S_2)^(1/2) is the sum of singular values of A B^T, of rows A and B less their means.
    a, b = RNG.randn(9, 40), RNG.randn(15, 40) + 0.3
    centered = [(x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (a, b)]
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + sum((x**2).sum() for x in centered)
    expected -= 2 * np.linalg.svd(centered[0] @ centered[1].T, compute_uv=False).sum()
    for pair in ((a, b), (b, a)):
        assert distance(*map(Moments.of, pair)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("count", [8, 20])
def test_equal_moments_have_no_distance_even_where_a_direction_is_missing(count):
    features = RNG.randn(count, 12)
    features[:, 3], features[:, 5] = features[:, 4], 0.7
    moments = Moments.of(features)
    assert 0 <= distance(moments, moments) < 1e-6


def test_constant_features_have_no_spread():
    real, fake = (Moments.of(np.full((9, 5), value, np.float32)) for value in (0.1, 0.3))
    assert not real.covariance.any()
    difference = np.float64(np.float32(0.3)) - np.float32(0.1)
    assert distance(real, fake) == pytest.approx(5 * difference**2)


def test_one_row_has_no_covariance():
    with pytest.raises(ValueError, match="two rows"):
        Moments.of(np.ones((1, 4)))


@pytest.mark.parametrize("dimension", [1, 7])
def test_moments_are_those_of_float64_wherever_the_mean_is(dimension):
    rows = np.float32(1000) + RNG.randn(4000, dimension).astype(np.float32)
    moments = Moments.of(rows)
    expected = np.atleast_2d(np.cov(rows.astype(np.float64).T))
    np.testing.assert_allclose(moments.covariance, expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(moments.mean, rows.mean(0, dtype=np.float64), rtol=1e-14)
    assert moments.count == 4000


def test_sums_of_batches_have_the_bits_of_all_rows_at_once(monkeypatch):
    monkeypatch.setattr(frechet, "ROWS", 64)
    rows, sums = RNG.randn(500, 6).astype(np.float32), Sums()
    for part in np.split(rows, [1, 3, 70, 71, 300, 300]):
        sums.add(part)
    got, expected = sums.moments(), Moments.of(rows)
    np.testing.assert_array_equal(got.mean, expected.mean)
    np.testing.assert_array_equal(got.covariance, expected.covariance)
    np.testing.assert_allclose(got.covariance, np.cov(rows.astype(np.float64).T), atol=1e-14)


def test_more_rows_can_be_added_after_moments():
    rows, sums = RNG.randn(50, 3), Sums()
    assert sums.add(rows[:20]).moments().count == 20
    got = sums.add(rows[20:]).moments()
    np.testing.assert_allclose(got.covariance, np.cov(rows.T), atol=1e-14)


def gaussians(dimension):
    """Two of known moments, and their distance in closed form."""
    rotation, _ = np.linalg.qr(RNG.randn(dimension, dimension))
    sizes = np.linspace(0.5, 1.5, dimension), np.linspace(1.3, 0.6, dimension)
    means = np.zeros(dimension), np.full(dimension, 0.1)
    both = [Moments(m, (rotation * s**2) @ rotation.T) for m, s in zip(means, sizes, strict=True)]
    return *both, ((sizes[0] - sizes[1]) ** 2).sum() + 0.01 * dimension


def test_fd_infinity_is_the_distance_of_the_gaussians_and_few_rows_are_biased():
    real, other, exact = gaussians(8)
    found = []
    for seed in range(20):
        noise = np.random.RandomState(seed).randn(2000, 8)
        rows = other.mean + noise @ other.factor.T
        found.append((*fd_infinity(real, rows, seed=seed), distance(real, Moments.of(rows[:200]))))
    values, errors, few = np.transpose(found)
    spread = values.std() / np.sqrt(len(values))
    assert abs(values.mean() - exact) < 4 * spread < 0.03 * exact
    assert few.mean() - exact > 10 * abs(values.mean() - exact)
    assert 0 < errors.min() < errors.mean() < 0.1 * exact


def test_fd_infinity_is_the_intercept_of_a_line_in_one_over_n(monkeypatch):
    seen = []

    def on_a_line(real, moments):
        seen.append(moments.count)
        return 3 + 50 / moments.count

    monkeypatch.setattr(frechet, "distance", on_a_line)
    value, error = fd_infinity(None, RNG.randn(300, 2), points=4)
    assert seen == [30, 120, 210, 300]
    assert (value, error) == pytest.approx((3, 0), abs=1e-12)


def test_fd_infinity_and_its_error_are_least_squares(monkeypatch):
    noise = RNG.randn(15)
    drawn = iter(noise)
    monkeypatch.setattr(frechet, "distance", lambda real, m: 3 + 50 / m.count + next(drawn))
    sizes = np.linspace(30, 300, 15).astype(int)
    fit = linregress(1 / sizes, 3 + 50 / sizes + noise)
    expected = (fit.intercept, fit.intercept_stderr)
    assert fd_infinity(None, np.zeros((300, 2))) == pytest.approx(expected)


def test_fd_infinity_of_too_few_rows():
    with pytest.raises(ValueError, match="20 rows"):
        fd_infinity(random_moments(2), RNG.randn(19, 2))
