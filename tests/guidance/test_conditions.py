"""Conditions of every kind through the equation, CADS and a sampler; oracles written out here."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.config import Heun, Label, Vector
from jaxdiff.diffusion.denoiser import Prediction, per_sample
from jaxdiff.diffusion.randomness import Purpose, derived, sample_keys
from jaxdiff.guidance.cads import Cads
from jaxdiff.guidance.conditions import annealed, dropout, random, same
from jaxdiff.guidance.equation import Guidance, GuidanceParams, NetworkBranch
from jaxdiff.models.condition import Condition, Dropout
from jaxdiff.samplers.heun import HeunSampler
from jaxdiff.samplers.loop import advance, begin, sample
from tests.closed_forms import edm_levels

COUNT = 4
KEYS = sample_keys(0, jnp.arange(COUNT))
LENGTHS = np.array([1, 3, 2, 3])


def attended(condition):
    """Attention of one query, of zeros, to the tokens that are there: their mean, [B, 2]."""
    mask = condition.mask[..., None]
    return jnp.where(mask, condition.tokens, 0).sum(1) / mask.sum(1)


def denoise(x, level, condition, dropout=None):
    """The denoiser of N(mean of tokens, .3^2 I), in closed form."""
    gain = per_sample(0.09 / (0.09 + level.sigma**2), x)
    mean = attended(condition)
    return Prediction(mean + gain * (x - mean))


def tokens(seed):
    array = np.random.RandomState(seed).standard_normal((COUNT, 3, 2))
    # What is absent is large, so that it would be noticed.
    array[np.arange(3) >= LENGTHS[:, None]] = 1e3
    return Condition(tokens=jnp.asarray(array, jnp.float32), mask=jnp.arange(3) < LENGTHS[:, None])


MAIN, NULL = tokens(0), tokens(1)
STEPS = 60
GRID = HeunSampler(Heun(clip=False)).grid(edm_levels(STEPS))


def run(cads=None, together=False):
    """Samples of a network that attends to tokens, guided with weight 3."""
    branches = [
        same(c) if cads is None else annealed(same(c), cads, number)
        for c, number in ((MAIN, None), (NULL, 0))
    ]
    main, reference = (NetworkBranch(denoise, branch) for branch in branches)
    guidance = Guidance(
        main=main,
        references=(reference,),
        params=GuidanceParams(jnp.full((1, STEPS), 3.0)),
        together=together,
    )
    x = 80 * jax.random.normal(jax.random.key(1), (COUNT, 2))
    return jax.jit(lambda x: sample(HeunSampler(Heun(clip=False)), GRID, guidance, x, KEYS))(x)


def mean(condition):
    array = np.asarray(condition.tokens, np.float64)
    return np.stack([row[:n].mean(0) for row, n in zip(array, LENGTHS, strict=True)])


def test_tokens_and_their_mask_reach_the_network_through_guidance_and_heun():
    """D = mean + gain (x - mean) for the mean m_1 + 2 (m_1 - m_0) of the guided prediction."""
    expected = mean(MAIN) + 2 * (mean(MAIN) - mean(NULL))
    for together in (False, True):
        # The flow keeps the quantiles of N(mean, .3^2).
        x = 80 * np.asarray(jax.random.normal(jax.random.key(1), (COUNT, 2)), np.float64)
        exact = expected + 0.3 * (x - expected) / np.sqrt(80**2 + 0.09)
        np.testing.assert_allclose(run(together=together), exact, atol=0.01)


def test_cads_anneals_tokens_in_the_loop():
    whole = Cads(jnp.ones(STEPS), jnp.float32(1), jnp.float32(1))
    np.testing.assert_allclose(run(whole), run(), rtol=1e-6, atol=1e-6)
    some = Cads(jnp.linspace(0, 1, STEPS), jnp.float32(0.5), jnp.float32(0.0))
    moved = np.abs(run(some) - run())
    assert np.isfinite(moved).all()
    assert moved.max() > 1e-3
    # Absent tokens are 1e3: had noise or statistics come from them, samples would be far off.
    assert moved.max() < 20


@pytest.mark.parametrize("together", [False, True])
def test_dropout_is_an_argument_of_its_own(together):
    """Each network's rate and keys reach it; the keys differ by step and place."""
    seen = []

    def network(x, level, condition, dropout):
        seen.append(dropout)
        return Prediction(jnp.zeros_like(x))

    def other(*arguments):
        return network(*arguments)

    guidance = Guidance(
        main=NetworkBranch(network, same(MAIN), dropout(0.1)),
        references=(
            NetworkBranch(network, same(NULL), dropout(0.1, 0)),
            NetworkBranch(other, same(NULL)),
        ),
        params=GuidanceParams(jnp.full((2, STEPS), 2.0)),
        together=together,
    )
    x = jnp.zeros((COUNT, 2))
    decisions = guidance.decide(5, KEYS)
    guidance.denoise(x, GRID.levels[5], guidance.init(x.shape), decisions)
    own = [derived(KEYS, Purpose.DROPOUT, 5, place) for place in (0, 1)]
    if together:
        own = [jnp.stack(own, 1).reshape(-1)]
    assert [d.rate for d in seen[:-1]] == [0.1] * len(own)
    for dropped, keys in zip(seen[:-1], own, strict=True):
        np.testing.assert_array_equal(*map(jax.random.key_data, (dropped.keys, keys)))
    assert seen[-1] is None


def test_a_rate_is_static_and_keys_are_traced():
    flat, tree = jax.tree.flatten(Dropout(0.1, KEYS))
    assert len(flat) == 1
    assert tree != jax.tree.structure(Dropout(0.2, KEYS))


def test_random_labels_are_of_all_classes_and_drawn_at_each_step():
    """Every label of the network is drawn; its other conditions stay."""
    conditions = (Label(10), Vector(1), Label(4, name="style"))
    keys = sample_keys(0, jnp.arange(2000))
    vector = jnp.arange(2000.0)[:, None]

    def embed(cond):
        return Condition(vector=(cond["label"], cond["style"], cond["vector"]))

    draw = random(embed, {"label": None, "style": None, "vector": vector}, conditions)
    first, second = jax.jit(lambda keys: [draw(i, keys).vector for i in range(2)])(keys)
    for labels, styles, kept in (first, second):
        # The share of a class is .1 with a standard error of .007, and .25 with one of .01.
        np.testing.assert_allclose(np.bincount(labels, minlength=10) / 2000, 0.1, atol=0.03)
        np.testing.assert_allclose(np.bincount(styles, minlength=4) / 2000, 0.25, atol=0.04)
        np.testing.assert_array_equal(kept, vector)
    assert abs((first[0] == second[0]).mean() - 0.1) < 0.03
    assert abs((first[0] % 4 == first[1]).mean() - 0.25) < 0.04  # independent of each other
    alone = random(embed, {"label": None, "style": None, "vector": vector[7:9]}, conditions)
    np.testing.assert_array_equal(alone(0, keys[7:9]).vector[0], first[0][7:9])


def test_a_condition_that_does_not_change_is_embedded_once_for_all_steps():
    calls = []

    def embed():
        calls.append(1)
        return MAIN

    @jax.jit
    def go(x):
        guidance = Guidance(main=NetworkBranch(denoise, same(embed())))
        values = begin(HeunSampler(Heun()), guidance, x)
        return advance(HeunSampler(Heun()), GRID, guidance, values, KEYS, 0, 10)[0]

    program = jax.make_jaxpr(go)(jnp.zeros((COUNT, 2)))
    assert len(calls) == 1
    assert program.out_avals[0].shape == (COUNT, 2)


def test_the_null_condition_is_a_condition_of_its_own():
    """Weight 0 is the reference alone."""
    guidance = Guidance(
        main=NetworkBranch(denoise, same(MAIN)),
        references=(NetworkBranch(denoise, same(NULL)),),
        params=GuidanceParams(jnp.zeros((1, STEPS))),
    )
    x = jax.random.normal(jax.random.key(3), (COUNT, 2))
    level = dataclasses.replace(GRID.levels[5], alpha=jnp.ones(()))
    got, _ = guidance.denoise(x, level, guidance.init(x.shape), guidance.decide(5, KEYS))
    np.testing.assert_allclose(got.x0, denoise(x, level, NULL).x0, rtol=1e-5, atol=1e-6)
