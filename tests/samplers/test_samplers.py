"""Oracles: Gaussian data has an exact denoiser, and its samples an exact distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.config import ADM, DDIM, DDPM
from jaxdiff.diffusion.adm import AdmProcess
from jaxdiff.diffusion.denoiser import Prediction, per_sample
from jaxdiff.diffusion.randomness import sample_keys
from jaxdiff.guidance.equation import Guidance, NetworkBranch
from jaxdiff.samplers.ddim import DdimSampler
from jaxdiff.samplers.ddim_encode import DdimEncoder
from jaxdiff.samplers.ddpm import DdpmSampler
from jaxdiff.samplers.loop import sample
from tests.guided import sampled

MEAN, STD = 0.4, 0.3
PROCESS = AdmProcess(ADM())


def gaussian(x, level, condition, dropout=None):
    """E[x0 | x] for x0 ~ N(MEAN, STD^2), in closed form."""
    alpha, sigma = per_sample(level.alpha, x), per_sample(level.sigma, x)
    gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
    return Prediction(MEAN + gain * (x - alpha * MEAN))


def run(sampler, steps, x):
    return sampled(sampler, gaussian, PROCESS.levels(steps), x)


def exact_ode(x):
    """Where the deterministic flow takes x from the first level: quantiles are kept."""
    level = PROCESS.levels("")[0]
    std = np.sqrt(level.alpha**2 * STD**2 + level.sigma**2)
    return MEAN + STD * (x - level.alpha * MEAN) / std


def test_ddim_with_many_steps_is_the_flow():
    x = jnp.linspace(-2, 2, 64)[:, None]
    np.testing.assert_allclose(
        run(DdimSampler(DDIM(clip=False)), "1000", x), exact_ode(x), atol=5e-3
    )


@pytest.mark.parametrize(
    "sampler",
    [DdpmSampler(DDPM(clip=False)), DdimSampler(DDIM(eta=1.0, clip=False))],
    ids=["ddpm", "ddim"],
)
def test_stochastic_samplers_draw_from_the_data(sampler):
    x = jax.random.normal(jax.random.key(3), (20_000, 1))
    samples = run(sampler, "250", x)
    # The standard errors are .002 and .0015; 250 steps are off by about .002.
    assert abs(float(samples.mean()) - MEAN) < 0.01
    assert abs(float(samples.std()) - STD) < 0.01


def test_ddim_with_eta_one_is_ddpm_with_the_small_variance():
    def small(x, level, condition, dropout=None):
        prediction = gaussian(x, level, condition)
        return Prediction(prediction.x0, jnp.zeros_like(x))

    def steps(sampler):
        grid = sampler.grid(PROCESS.levels("10"))
        x, noise = jax.random.normal(jax.random.key(0), (2, 8, 4))

        def denoise(x, level, state):
            return small(x, level, None), state

        return jnp.stack([sampler.step(denoise, grid, i, x, noise, (), ())[0] for i in range(9)])

    a, b = steps(DdimSampler(DDIM(eta=1.0))), steps(DdpmSampler(DDPM()))
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "sampler", [DdpmSampler(DDPM()), DdimSampler(DDIM(eta=1.0))], ids=["ddpm", "ddim"]
)
def test_the_last_step_returns_the_clipped_prediction(sampler):
    grid = sampler.grid(PROCESS.levels("10"))
    x0 = jnp.array([[-3.0, -0.5], [0.25, 2.0]])

    def denoise(x, level, state):
        return Prediction(x0, jnp.ones_like(x0)), state

    noise = 100 * jnp.ones_like(x0)
    x, _, _ = sampler.step(denoise, grid, 9, jnp.zeros_like(x0), noise, (), ())
    np.testing.assert_allclose(x, jnp.clip(x0, -1, 1), atol=1e-5)


def test_ddpm_uses_the_learned_variance():
    sampler = DdpmSampler(DDPM())
    grid = sampler.grid(PROCESS.levels("10"))
    x, noise = jnp.zeros((1, 3)), jnp.ones((1, 3))
    fraction = jnp.array([[0.0, 0.5, 1.0]])

    def denoise(x, level, state):
        return Prediction(jnp.zeros_like(x), fraction), state

    moved, _, _ = sampler.step(denoise, grid, 4, x, noise, (), ())
    small, large = grid.coefficients.log_small[4], grid.coefficients.log_large[4]
    expected = np.exp(0.5 * np.array([small, (small + large) / 2, large]))
    np.testing.assert_allclose(moved[0], expected, rtol=1e-5)


def test_guidance_state_passes_through_every_step():
    class Counting(Guidance):
        def init(self, shape):
            return jnp.zeros((), jnp.int32)

        def denoise(self, x, level, state, decisions):
            # The state shifts the prediction, so the result shows how often it was passed on.
            return Prediction(jnp.full_like(x, 0.001) * state), state + 1

    sampler = DdimSampler(DDIM())
    grid = sampler.grid(PROCESS.levels("10"))
    keys = sample_keys(0, jnp.arange(2))
    x = sample(sampler, grid, Counting(main=NetworkBranch(gaussian)), jnp.zeros((2, 3)), keys)
    np.testing.assert_allclose(x, np.full((2, 3), 0.009), rtol=1e-4)


def step_with_score(sampler, i, x, noise, classifier_score):
    grid = sampler.grid(PROCESS.levels("10"))

    def denoise(x, level, state):
        return Prediction(3 * x, jnp.full_like(x, 0.5), classifier_score=classifier_score), state

    return grid, sampler.step(denoise, grid, i, x, noise, (), ())[0]


@pytest.mark.parametrize("i", [0, 5, 9])
def test_ddpm_adds_variance_times_the_score_to_the_mean(i):
    """ADM's Algorithm 1: x ~ N(mu + Sigma * g, Sigma); at the last step too."""
    x, noise, classifier_score = jax.random.normal(jax.random.key(0), (3, 4, 5))
    grid, plain = step_with_score(DdpmSampler(DDPM()), i, x, noise, None)
    _, moved = step_with_score(DdpmSampler(DDPM()), i, x, noise, classifier_score)
    steps = grid.coefficients
    variance = np.exp(0.5 * (steps.log_small[i] + steps.log_large[i]))
    np.testing.assert_allclose(moved, plain + variance * classifier_score, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("i", [0, 5, 9])
def test_ddim_subtracts_sigma_times_the_score_from_the_noise(i):
    """ADM's Algorithm 2, with eps re-derived from the clipped x0 and no clipping after it."""
    x, classifier_score = np.asarray(jax.random.normal(jax.random.key(0), (2, 4, 5)), np.float64)
    _, moved = step_with_score(
        DdimSampler(DDIM()), i, jnp.asarray(x, jnp.float32), jnp.zeros((4, 5)), classifier_score
    )
    levels = PROCESS.levels("10")
    a, b = levels[i], levels[i + 1]
    eps = (x - a.alpha * np.clip(3 * x, -1, 1)) / a.sigma - a.sigma * classifier_score
    x0 = (x - a.sigma * eps) / a.alpha
    np.testing.assert_allclose(moved, b.alpha * x0 + b.sigma * eps, rtol=2e-4, atol=2e-5)


def test_encoding_is_the_flow_backwards():
    x = jnp.linspace(-0.5, 1.3, 32)[:, None]
    std = np.sqrt(PROCESS.levels("")[-2].alpha ** 2 * STD**2 + PROCESS.levels("")[-2].sigma ** 2)
    latent = run(DdimEncoder(DDIM(clip=False)), "1000", x)
    np.testing.assert_allclose(latent, (x - MEAN) / std, atol=0.02)
    np.testing.assert_allclose(run(DdimSampler(DDIM(clip=False)), "1000", latent), x, atol=5e-3)


def test_the_last_step_of_encoding_returns_the_predicted_noise():
    sampler = DdimEncoder(DDIM())
    grid = sampler.grid(PROCESS.levels("10"))
    x, x0 = jnp.array([[0.7, -0.2]]), jnp.array([[0.1, 5.0]])

    def denoise(x, level, state):
        return Prediction(x0), state

    latent, _, _ = sampler.step(denoise, grid, 9, x, 100 * x, (), ())
    top = PROCESS.levels("")[0]
    expected = (x - top.alpha * np.clip(x0, -1, 1)) / top.sigma
    np.testing.assert_allclose(latent, expected, rtol=1e-5)
