import numpy as np
import pytest

from jaxdiff.evaluation.metrics.frechet import Moments, distance

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
    from scipy.linalg import sqrtm

    a, b = random_moments(6), random_moments(6)
    cross = np.trace(sqrtm(a.covariance @ b.covariance)).real
    expected = ((a.mean - b.mean) ** 2).sum()
    expected += np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross
    assert distance(a, b) == pytest.approx(expected)
    assert distance(b, a) == pytest.approx(expected)


def test_equal_moments_have_no_distance_even_where_a_direction_is_missing():
    features = RNG.randn(20, 7)
    features[:, 3] = features[:, 4]
    moments = Moments.of(features)
    assert distance(moments, moments) == pytest.approx(0, abs=1e-6)


def test_moments_are_computed_in_float64():
    features = np.float32(1000) + RNG.randn(4000, 2).astype(np.float32)
    moments = Moments.of(features)
    np.testing.assert_allclose(moments.covariance, np.cov(features.astype(np.float64).T))
    assert moments.mean.dtype == np.float64
