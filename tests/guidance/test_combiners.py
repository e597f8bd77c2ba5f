"""Oracles: Algorithm 1 of APG written out in NumPy, and laws of conservation."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.guidance.combiners import Apg, Linear, rescale

SHAPE = (5, 4, 4, 3)


def arrays(count, seed=0, shape=SHAPE):
    return np.random.RandomState(seed).standard_normal((count, *shape)).astype(np.float32)


def dots(a, b):
    return (np.asarray(a, np.float64) * b).reshape(len(b), -1).sum(1)


def lengths(a):
    return np.sqrt(dots(a, np.asarray(a)))


def combine(apg, difference, main, state=None):
    return apg.combine(difference, main, apg.init(main.shape) if state is None else state)


def test_linear_adds_the_difference():
    difference, main = arrays(2)
    added, state = Linear().combine(difference, main, Linear().init(SHAPE))
    np.testing.assert_array_equal(added, difference)
    assert state == ()


def test_with_nothing_on_it_is_linear():
    difference, main = arrays(2)
    added, _ = combine(Apg(1.0, 0.0, jnp.inf), difference, main)
    np.testing.assert_allclose(added, difference, atol=1e-6)


def test_the_algorithm_over_three_steps():
    apg, state, average = Apg(0.3, -0.5, 8.0), jnp.zeros(SHAPE), np.zeros(SHAPE)
    for step in range(3):
        difference, main = arrays(2, seed=step)
        added, state = apg.combine(difference, main, state)
        average = difference + -0.5 * average
        for n in range(len(main)):
            d = average[n] * min(1, 8.0 / np.linalg.norm(average[n]))
            unit = main[n] / np.linalg.norm(main[n])
            parallel = (d * unit).sum() * unit
            np.testing.assert_allclose(added[n], d - parallel + 0.3 * parallel, atol=1e-5)
    assert lengths(average).max() > 8  # so that shrinking took place
    np.testing.assert_allclose(state, average, atol=1e-5)


@pytest.mark.parametrize("norm", [0.5, np.inf])
def test_without_the_parallel_part_the_push_is_orthogonal_to_the_prediction(norm):
    difference, main = arrays(2)
    added, _ = combine(Apg(0.0, -0.5, norm), difference + main, main)
    cosines = dots(added, main) / lengths(added) / lengths(main)
    np.testing.assert_allclose(cosines, 0, atol=1e-6)
    assert lengths(added).min() > 0.1


def test_the_norm_bounds_each_samples_push_and_touches_no_shorter_one():
    difference, main = arrays(2)
    difference = difference * np.array([0.01, 0.1, 1, 10, 100], np.float32)[:, None, None, None]
    added, state = combine(Apg(1.0, 0.0, 3.0), difference, main)
    np.testing.assert_allclose(lengths(added), np.minimum(lengths(difference), 3.0), rtol=1e-5)
    np.testing.assert_array_equal(state, difference)  # stored before it is shrunk


def test_no_difference_and_no_prediction_are_no_trouble():
    zero, one = np.zeros(SHAPE, np.float32), arrays(1)[0]
    for difference, main in [(zero, one), (one, zero), (zero, zero)]:
        added, _ = combine(Apg(0.0, -0.5, 1.0), difference, main)
        assert np.isfinite(added).all()
    assert np.isfinite(rescale(zero, one, 0.7)).all()


def test_points_are_samples_of_their_own_too():
    difference, main = arrays(2, shape=(6, 2))
    added, _ = combine(Apg(0.0, 0.0, jnp.inf), difference, main)
    np.testing.assert_allclose(dots(added, main), 0, atol=1e-5)


def test_rescaling_restores_each_samples_deviation():
    guided, main = arrays(2)
    guided = 3 * guided + 1
    np.testing.assert_array_equal(rescale(guided, main, 0.0), guided)
    restored = np.asarray(rescale(guided, main, 1.0))
    axes = (1, 2, 3)
    np.testing.assert_allclose(restored.std(axes), main.std(axes), rtol=1e-5)
    ratio = (main.std(axes) / guided.std(axes))[:, None, None, None]
    np.testing.assert_allclose(restored, guided * ratio, rtol=1e-5, atol=1e-6)
    mixed = rescale(guided, main, 0.7)
    np.testing.assert_allclose(mixed, 0.7 * restored + 0.3 * guided, rtol=1e-5, atol=1e-6)
