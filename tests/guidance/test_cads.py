"""Oracles: the formula in NumPy, moments, and what draws may and may not share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.config import CADS
from jaxdiff.diffusion.randomness import sample_keys
from jaxdiff.guidance.cads import Cads, gamma, noise_like
from jaxdiff.guidance.conditions import annealed, same
from jaxdiff.models.condition import Condition

KEYS = sample_keys(0, jnp.arange(6))
LENGTHS = np.array([1, 2, 5, 3, 4, 5])


def values(seed, *shape):
    return jnp.asarray(np.random.RandomState(seed).standard_normal((6, *shape)), jnp.float32)


# Two embeddings, two maps, and sequences of 1 to 5 tokens.
CONDITION = Condition(
    vector=(0.02 * values(0, 64) + 0.01, values(1, 32)),
    image=(values(2, 4, 4, 2), 3 * values(3, 6, 6, 1) - 1),
    tokens=values(4, 5, 16) + 0.5,
    mask=jnp.arange(5) < LENGTHS[:, None],
)


def cads(gammas, scale=0.1, mix=1.0):
    return Cads(jnp.asarray(gammas, jnp.float32), jnp.float32(scale), jnp.float32(mix))


anneal = jax.jit(lambda cads, condition, i, keys: cads.anneal(condition, i, keys))
noise_of = jax.jit(noise_like)


def test_gamma_falls_from_1_to_0_between_the_taus():
    time = [0.0, 0.6, 0.675, 0.75, 0.9, 1.0]
    np.testing.assert_allclose(gamma(time, 0.6, 0.9), [1, 1, 0.75, 0.5, 0, 0], atol=1e-12)
    got = Cads.of(CADS(0.6, 0.9, 0.1, 0.5), time)
    np.testing.assert_allclose(got.gammas, [1, 1, 0.75, 0.5, 0, 0], atol=1e-6)
    assert (got.scale, got.mix) == (np.float32(0.1), 0.5)


def test_equal_taus_are_a_step():
    np.testing.assert_array_equal(gamma([0, 0.5, 0.50001, 1], 0.5, 0.5), [1, 1, 0, 0])


def formula(y, n, left, scale, mix):
    """The module's equations for one sample, any shape."""
    noised = np.sqrt(left) * y + scale * np.sqrt(1 - left) * n
    restored = (noised - noised.mean()) / noised.std() * y.std() + y.mean()
    return mix * restored + (1 - mix) * noised


def unmasked(tree, sample):
    """[(name, values)] of one sample: each array of a Condition, without tokens that are absent."""
    named = [*enumerate(tree.vector), *enumerate(tree.image, 2)]
    found = [(name, np.asarray(array[sample], np.float64)) for name, array in named]
    return [*found, ("tokens", np.asarray(tree.tokens[sample, : LENGTHS[sample]], np.float64))]


@pytest.mark.parametrize("mix", [0.0, 0.4, 1.0])
def test_every_array_is_annealed_by_the_formula_without_masked_tokens(mix):
    got = anneal(cads([1.0, 0.3], 0.25, mix), CONDITION, 1, KEYS)
    noise = noise_of(CONDITION, KEYS)
    for sample in range(6):
        triples = zip(*(unmasked(t, sample) for t in (got, CONDITION, noise)), strict=True)
        for (name, actual), (_, y), (_, n) in triples:
            expected = formula(y, n, 0.3, 0.25, mix)
            np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5, err_msg=str(name))
    mask = np.asarray(CONDITION.mask)
    np.testing.assert_array_equal(got.mask, mask)
    np.testing.assert_array_equal(got.tokens[~mask], CONDITION.tokens[~mask])


def test_absent_tokens_have_no_influence_and_no_mask_means_all_are_there():
    annealing, mask = cads([0.3], 0.25), np.asarray(CONDITION.mask)
    tokens = np.asarray(CONDITION.tokens)
    other = np.where(mask[..., None], tokens, 1e6)
    a, b = (anneal(annealing, Condition(tokens=t, mask=mask), 0, KEYS) for t in (tokens, other))
    np.testing.assert_array_equal(a.tokens[mask], b.tokens[mask])
    masks = (np.ones_like(mask), None)
    a, b = (anneal(annealing, Condition(tokens=tokens, mask=m), 0, KEYS).tokens for m in masks)
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mix", [0.0, 0.4, 1.0])
def test_where_gamma_is_1_nothing_is_touched(mix):
    got = anneal(cads([1.0, 1.0], 5.0, mix), CONDITION, 0, KEYS)
    jax.tree.map(np.testing.assert_array_equal, got, CONDITION)


@pytest.mark.parametrize("value", [0.0, 0.7])
@pytest.mark.parametrize("scale", [0.0, 0.1])
def test_an_embedding_without_deviation_is_no_trouble(value, scale):
    condition = Condition(vector=jnp.full((6, 8), value))
    for i in range(2):
        got = anneal(cads([0.0, 0.5], scale), condition, i, KEYS)
        np.testing.assert_allclose(got.vector, condition.vector, atol=1e-6)


def test_every_network_every_step_every_array_and_every_sample_has_noise_of_its_own():
    """With gamma 0, scale 1 and psi 0 the condition is the noise itself."""
    noise_only = cads([0.0, 0.0, 0.0], 1.0, 0.0)
    two = Condition(vector=(jnp.zeros((6, 64)), jnp.zeros((6, 64))))

    @jax.jit
    def drawn(keys):
        return [
            annealed(same(two), noise_only, number)(i, keys).vector
            for i in range(3)
            for number in (None, 0, 1, 2)
        ]

    draws = drawn(KEYS)
    flat = np.stack([np.ravel(array) for pair in draws for array in pair])
    correlation = np.corrcoef(flat) - np.eye(len(flat))
    assert np.abs(correlation).max() < 0.25  # 384 numbers: a standard error of .05
    of_samples = np.corrcoef(draws[0][0]) - np.eye(6)
    assert np.abs(of_samples).max() < 0.6  # 64 numbers: .125


def test_a_sample_has_the_same_condition_in_any_batch():
    condition = Condition(tokens=CONDITION.tokens, mask=CONDITION.mask)
    whole = anneal(cads([0.2]), condition, 0, KEYS)
    for n in (0, 5):
        one = jax.tree.map(lambda a, n=n: a[n : n + 1], condition)
        alone = anneal(cads([0.2]), one, 0, KEYS[n : n + 1])
        jax.tree.map(
            lambda a, b, n=n: np.testing.assert_allclose(a[0], b[n], rtol=1e-5, atol=1e-6),
            alone,
            whole,
        )


def test_nothing_to_anneal_is_left_as_it_is():
    assert anneal(cads([0.2]), Condition(), 0, KEYS) == Condition()
