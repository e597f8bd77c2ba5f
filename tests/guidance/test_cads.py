"""Oracles: the formula, moments, and what draws may and may not share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.diffusion.randomness import sample_keys
from jaxdiff.guidance.cads import Cads, gamma
from jaxdiff.guidance.conditions import embedded, random, same

KEYS = sample_keys(0, jnp.arange(6))
TABLE = 0.02 * np.random.RandomState(0).standard_normal((11, 64)).astype(np.float32) + 0.01
LABELS = jnp.array([0, 3, 3, 7, 10, 10])


def embed(labels):
    return jnp.asarray(TABLE)[labels]


def cads(gammas, scale=0.1, mix=1.0):
    return Cads(jnp.asarray(gammas, jnp.float32), jnp.float32(scale), jnp.float32(mix))


def test_gamma_falls_from_1_to_0_between_the_taus():
    time = [0.0, 0.6, 0.675, 0.75, 0.9, 1.0]
    np.testing.assert_allclose(gamma(time, 0.6, 0.9), [1, 1, 0.75, 0.5, 0, 0], atol=1e-12)


def test_equal_taus_are_a_step():
    np.testing.assert_array_equal(gamma([0, 0.5, 0.50001, 1], 0.5, 0.5), [1, 1, 0, 0])


def test_the_formula():
    y, n = np.random.RandomState(1).standard_normal((2, 4, 32))
    noised = np.sqrt(0.3) * y + 0.25 * np.sqrt(0.7) * n
    restored = (noised - noised.mean(1, keepdims=True)) / noised.std(1, keepdims=True)
    restored = restored * y.std(1, keepdims=True) + y.mean(1, keepdims=True)
    for psi in (0.0, 0.4, 1.0):
        actual = cads([1.0, 0.3], 0.25, psi).anneal(jnp.float32(y), 1, jnp.float32(n))
        expected = psi * restored + (1 - psi) * noised
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_where_gamma_is_1_nothing_is_touched():
    y = embed(LABELS)
    for mix in (0.0, 0.4, 1.0):
        told = jax.jit(cads([1.0], 5.0, mix).anneal)(y, 0, jnp.ones_like(y))
        np.testing.assert_array_equal(told, y)


@pytest.mark.parametrize("left", [0.0, 0.3, 0.9])
def test_moments_are_restored_sample_by_sample(left):
    y = np.array(embed(LABELS)) * np.arange(1, 7)[:, None]
    noise = jax.random.normal(jax.random.key(0), y.shape)
    told = np.asarray(cads([left], 0.25).anneal(y, 0, noise))
    np.testing.assert_allclose(told.mean(1), y.mean(1), atol=1e-6)
    np.testing.assert_allclose(told.std(1), y.std(1), rtol=1e-4)
    assert np.abs(told - y).max() > 1e-3


@pytest.mark.parametrize("value", [0.0, 0.7])
@pytest.mark.parametrize("scale", [0.0, 0.1])
def test_an_embedding_without_deviation_is_no_trouble(value, scale):
    y = jnp.full((2, 8), value)
    noise = jax.random.normal(jax.random.key(0), y.shape)
    told = cads([0.0, 0.5], scale)
    for i in range(2):
        np.testing.assert_allclose(told.anneal(y, i, noise), y, atol=1e-6)


def test_every_network_and_every_step_has_noise_of_its_own():
    """With gamma 0, scale 1 and psi 0 the condition is the noise itself."""
    noise_only = cads([0.0, 0.0, 0.0], 1.0, 0.0)

    def drawn(i, number):
        return np.asarray(embedded(embed, same(LABELS), noise_only, number)(i, KEYS).embedding)

    draws = {(i, number): drawn(i, number) for i in range(3) for number in (None, 0, 1, 2)}
    flat = np.stack([d.ravel() for d in draws.values()])
    correlation = np.corrcoef(flat) - np.eye(len(flat))
    assert np.abs(correlation).max() < 0.25  # 384 numbers: a standard error of .05
    assert np.abs(np.corrcoef(draws[0, None]) - np.eye(6)).max() < 0.6  # samples: 64 numbers, .125
    for (i, number), draw in draws.items():
        np.testing.assert_array_equal(drawn(i, number), draw)


def test_a_sample_is_told_the_same_in_any_batch():
    annealed = cads([0.2])
    whole = embedded(embed, same(LABELS), annealed)(0, KEYS).embedding
    for n in range(6):
        alone = embedded(embed, same(LABELS[n : n + 1]), annealed)(0, KEYS[n : n + 1]).embedding
        np.testing.assert_allclose(alone[0], whole[n], rtol=1e-6, atol=1e-7)


def test_a_network_without_labels_is_told_nothing():
    condition = embedded(lambda labels: None, same(LABELS), cads([0.2]))(0, KEYS)
    assert condition.embedding is None


def test_random_labels_are_of_all_classes_and_drawn_anew_each_step():
    keys = sample_keys(0, jnp.arange(2000))
    first, second = (np.asarray(random(10)(i, keys)) for i in range(2))
    for labels in (first, second):
        # The share of a class is .1 with a standard error of .007.
        np.testing.assert_allclose(np.bincount(labels, minlength=10) / 2000, 0.1, atol=0.03)
    assert abs((first == second).mean() - 0.1) < 0.03
    np.testing.assert_array_equal(random(10)(0, keys[7:9]), first[7:9])
