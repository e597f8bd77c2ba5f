"""Oracles: EDM's Algorithm 2 in NumPy, and the moments of Gaussian data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.config import DPMpp, Heun
from jaxdiff.diffusion.denoiser import Prediction
from jaxdiff.samplers.dpmpp import DpmppSampler
from jaxdiff.samplers.heun import HeunSampler
from tests.closed_forms import ONE, edm_levels
from tests.guided import sampled


def run(sampler, levels, x, seed=0):
    return sampled(sampler, ONE, levels, x, seed)


@pytest.mark.parametrize("i", [0, 2, 3])
def test_a_step_is_algorithm_2(i):
    sampler = HeunSampler(Heun(churn=1.0, churn_min=0.3, churn_max=50, churn_noise=1.1, clip=False))
    levels = edm_levels(4, 0.2, 60.0)
    s, s_next = levels.sigma[i], levels.sigma[i + 1]
    x, noise = np.random.RandomState(0).standard_normal((2, 5, 1)) * [[[s]], [[1]]]

    def slope(x, s):
        return (x - (0.4 + 0.09 / (0.09 + s**2) * (x - 0.4))) / s

    # min(S_churn / N, sqrt 2 - 1) = .25, where .3 <= s <= 50: not at 60, and not at .2.
    gamma = {0: 0.0, 2: 0.25, 3: 0.0}[i]
    s_hat = s + gamma * s
    x_hat = x + np.sqrt(s_hat**2 - s**2) * 1.1 * noise
    d = slope(x_hat, s_hat)
    expected = x_hat + (s_next - s_hat) * d
    if i < 3:
        d_next = slope(expected, s_next)
        expected = x_hat + (s_next - s_hat) * (d / 2 + d_next / 2)

    def denoise(x, level, state):
        return ONE(x, level), state

    step = (sampler if i < 3 else sampler.last).step
    actual, _, _ = step(
        denoise, sampler.grid(levels), i, jnp.float32(x), jnp.float32(noise), (), ()
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_churn_is_bounded_and_gated():
    levels = edm_levels(32)
    s = levels.ratio[:-1]
    raised = np.asarray(
        HeunSampler(Heun(churn=40, churn_min=0.05, churn_max=50))
        .grid(levels)
        .coefficients["raised"]
    )
    inside = (s >= 0.05) & (s <= 50)
    assert 0 < inside.sum() < 32
    np.testing.assert_allclose(raised[inside], np.sqrt(2) * s[inside], rtol=1e-6)  # 40 / 32 > .41
    np.testing.assert_allclose(raised[~inside], s[~inside], rtol=1e-6)
    mild = HeunSampler(Heun(churn=3.2)).grid(levels).coefficients
    np.testing.assert_allclose(mild["raised"], 1.1 * s, rtol=1e-6)
    np.testing.assert_allclose(mild["std"], np.sqrt(0.21) * s, rtol=1e-5)


def test_without_churn_nothing_is_random_and_with_it_noise_is_each_samples_own():
    levels = edm_levels(8)
    x = jnp.zeros((16, 1))
    plain, churned = HeunSampler(Heun(clip=False)), HeunSampler(Heun(churn=4.0, clip=False))
    still = run(plain, levels, x)
    np.testing.assert_array_equal(run(plain, levels, x, seed=1), still)
    gated = HeunSampler(Heun(churn=4, churn_min=90, clip=False))
    np.testing.assert_array_equal(run(gated, levels, x), still)
    moved = run(churned, levels, x)
    assert len(np.unique(moved)) == 16
    assert (run(churned, levels, x, seed=1) != moved).all()


def test_churn_keeps_the_distribution():
    levels = edm_levels(48, 0.002, 20.0)
    x = 20 * jax.random.normal(jax.random.key(0), (20_000, 1))
    for churn in (0.0, 10.0):
        samples = run(HeunSampler(Heun(churn=churn, clip=False)), levels, x)
        # Standard errors are .002 and .0015.
        assert abs(float(samples.mean()) - 0.4) < 0.02
        assert abs(float(samples.std()) - 0.3) < 0.01


def step_with_score(sampler, i, x, classifier_score):
    """A step with a constant classifier_score of a denoiser that predicts 3 x, and the levels."""

    def denoise(x, level, state):
        return Prediction(
            3 * x,
            classifier_score=None
            if classifier_score is None
            else jnp.full_like(x, classifier_score),
        ), state

    levels = edm_levels(4, 0.1, 2.0)
    grid = sampler.grid(levels)
    moved, _, _ = sampler.step(denoise, grid, i, x, x, sampler.init(x), ())
    return np.asarray(moved), levels.sigma


def test_the_score_moves_the_clipped_prediction_under_heun_and_dpmpp():
    """By s^2 g, at both of Heun's evaluations; after clipping, never before it."""
    x = jnp.linspace(-2, 2, 7)[:, None]
    moved, s = step_with_score(HeunSampler(Heun()), 1, x, 0.5)
    d = (x - np.clip(3 * x, -1, 1) - s[1] ** 2 * 0.5) / s[1]
    end = x + (s[2] - s[1]) * d
    d_end = (end - np.clip(3 * end, -1, 1) - s[2] ** 2 * 0.5) / s[2]
    np.testing.assert_allclose(moved, x + (s[2] - s[1]) * (d + d_end) / 2, rtol=1e-4, atol=1e-5)
    moved, s = step_with_score(DpmppSampler(DPMpp()), 0, x, 0.5)
    x0 = np.clip(3 * x, -1, 1) + s[0] ** 2 * 0.5
    expected = s[1] / s[0] * x + (1 - s[1] / s[0]) * x0
    np.testing.assert_allclose(moved, expected, rtol=1e-4, atol=1e-5)
    moved, s = step_with_score(HeunSampler(Heun()).last, 3, x, 0.5)
    expected = np.clip(3 * x, -1, 1) + s[3] ** 2 * 0.5
    np.testing.assert_allclose(moved, expected, rtol=1e-4, atol=1e-5)
