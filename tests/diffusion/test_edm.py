"""Oracles: Gaussian data, whose denoiser is a straight line, and Table 1 of EDM."""

import decimal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.config import DDPM, EDM, Heun
from jaxdiff.diffusion.denoiser import Level
from jaxdiff.diffusion.edm import PRECONDITIONED, EdmProcess, Parameterization, sigmas
from jaxdiff.diffusion.randomness import Purpose, derived
from jaxdiff.models.condition import Condition


def test_levels_fall_from_the_largest_to_the_smallest_and_then_0():
    levels = sigmas(18, 0.002, 80, 7)
    assert levels.dtype == np.float64
    assert levels.shape == (19,)
    assert (np.diff(levels) < 0).all()
    np.testing.assert_allclose(levels[[0, 17, 18]], [80, 0.002, 0])


def test_roots_of_levels_are_evenly_spaced():
    roots = sigmas("9", 0.1, 5, 3)[:-1] ** (1 / 3)
    np.testing.assert_allclose(np.diff(roots), (0.1 ** (1 / 3) - 5 ** (1 / 3)) / 8)


@pytest.mark.parametrize("rho", [0.001, 0.1, 0.25, 1, 7, 100, 1000])
def test_grids_of_any_rho_fall_strictly_as_float32_and_follow_the_equation(rho):
    levels = sigmas(18, 0.002, 80, rho)
    np.testing.assert_array_equal(levels[[0, 17, 18]], [80, 0.002, 0])
    assert (np.diff(np.float32(levels)) < 0).all()
    high, low = decimal.Decimal(80), decimal.Decimal("0.002")
    power, own = decimal.Decimal(str(rho)), []
    with decimal.localcontext(decimal.Context(prec=60, Emax=10**6, Emin=-(10**6))):
        for i in range(18):
            ends = high ** (1 / power), low ** (1 / power)
            own.append(float((ends[0] + i * (ends[1] - ends[0]) / 17) ** power))
    np.testing.assert_allclose(levels[1:17], own[1:17], rtol=1e-12)


def test_one_step_is_the_largest_level():
    np.testing.assert_allclose(sigmas(1, 0.002, 80, 7), [80, 0])


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        (("ddim25", 0.002, 80, 7), "ddim25"),
        (("²", 0.002, 80, 7), "²"),
        (("9" * 5000, 0.002, 80, 7), "999"),
        ((32, 1, 1 + 1e-6, 7), "1.000001"),
        ((100_000, 79.9, 80, 7), "100000"),
    ],
)
def test_grids_that_cannot_be_are_refused(arguments, value):
    with pytest.raises(ValueError, match=value):
        sigmas(*arguments)


class Gaussian:
    """Points of N(MEAN, .5^2 I), as data that are known."""

    MEAN = np.array([0.3, -0.7], np.float32)

    def denoiser(self, x, sigma):
        """E[x_0 | x] of x = x_0 + sigma eps: x [B, D], sigma a scalar or [B]."""
        variance = np.asarray(sigma)[..., None] ** 2
        return (0.25 * x + variance * self.MEAN) / (variance + 0.25)

    def sample(self, keys):
        """A point for each key."""
        return self.MEAN + 0.5 * jax.vmap(lambda key: jax.random.normal(key, (2,)))(keys)


GAUSSIAN = Gaussian()
CONDITION = Condition()


def points(count=64):
    x = np.random.default_rng(0).standard_normal((count, 2)).astype(np.float32)
    return x, np.geomspace(0.01, 50, count).astype(np.float32)


def preconditioned_output(x, time, *_):
    """The output of a preconditioned network that is exact for the Gaussian, by Table 1 of EDM."""
    sigma = jnp.exp(4 * time / PRECONDITIONED.time_scale)[:, None]
    x = x * jnp.sqrt(sigma**2 + 0.25)
    denoised = (0.25 * x + sigma**2 * GAUSSIAN.MEAN) / (sigma**2 + 0.25)
    skip, out = 0.25 / (sigma**2 + 0.25), 0.5 * sigma / jnp.sqrt(sigma**2 + 0.25)
    return (denoised - skip * x) / out


def score_output(x, time, *_):
    """The same of a network that gives the score."""
    sigma = jnp.exp(4 * time)[:, None]
    return (GAUSSIAN.MEAN - x * jnp.sqrt(sigma**2 + 0.25)) / (sigma**2 + 0.25)


def _of_score(network, x, sigma, data_std):
    return x + sigma**2 * network(x / jnp.sqrt(sigma**2 + data_std**2))


SCORE = Parameterization(_of_score, lambda sigma, data_std: sigma**-2)
NETWORKS = [
    pytest.param(PRECONDITIONED, preconditioned_output, id="preconditioned"),
    pytest.param(SCORE, score_output, id="a parameterization from elsewhere"),
]


@pytest.mark.parametrize(("parameterization", "network"), NETWORKS)
@pytest.mark.parametrize("alpha", [1.0, 0.2])
def test_a_perfect_network_denoises_in_any_scaling(parameterization, network, alpha):
    x, sigma = points()
    process = EdmProcess(EDM(), parameterization=parameterization)
    level = Level(jnp.full(len(x), alpha), alpha * sigma)
    got = process.denoiser(network)(alpha * x, level, CONDITION).x0
    np.testing.assert_allclose(got, GAUSSIAN.denoiser(x, sigma), rtol=1e-3, atol=2e-4)


def test_a_level_may_be_for_all():
    x, _ = points()
    level = Level(jnp.ones(()), jnp.float32(0.3))
    got = EdmProcess(EDM()).denoiser(preconditioned_output)(x, level, CONDITION).x0
    np.testing.assert_allclose(got, GAUSSIAN.denoiser(x, 0.3), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("parameterization", "network"), NETWORKS)
def test_with_known_data_a_perfect_network_has_no_loss(parameterization, network):
    process = EdmProcess(EDM(), parameterization=parameterization, data=GAUSSIAN)
    x0, _ = points()
    draws = process.draw(jax.random.key(0), x0.shape)
    terms, _ = process.losses(network, x0, CONDITION, draws)
    assert terms.keys() == set(process.terms)
    np.testing.assert_allclose(terms["loss"], 0, atol=1e-4)


def test_the_loss_of_images_is_edm_s():
    x0, _ = points()
    process = EdmProcess(EDM())
    draws = process.draw(jax.random.key(0), x0.shape)
    terms, _ = process.losses(lambda x, *_: 0 * x + 0.2, x0, CONDITION, draws)
    sigma, noise = (np.asarray(draws[name], np.float64) for name in ("sigma", "noise"))
    s = sigma[:, None]
    d = (0.25 * (x0 + s * noise) + 0.5 * s * np.sqrt(s**2 + 0.25) * 0.2) / (s**2 + 0.25)
    weight = (sigma**2 + 0.25) / (0.5 * sigma) ** 2
    np.testing.assert_allclose(terms["loss"], weight * ((d - x0) ** 2).mean(1), rtol=1e-3)


def test_noise_levels_are_log_normal_and_quartiles_their_quarters():
    process = EdmProcess(EDM(p_mean=-2.3, p_std=1.5))
    x0 = np.zeros((20_000, 1), np.float32)
    draws = process.draw(jax.random.key(0), x0.shape)
    logarithm = np.log(draws["sigma"])
    np.testing.assert_allclose([logarithm.mean(), logarithm.std()], [-2.3, 1.5], atol=0.05)
    _, quartile = process.losses(lambda x, *_: x, x0, CONDITION, draws)
    np.testing.assert_allclose(np.bincount(quartile) / 20_000, 0.25, atol=0.02)
    order = np.argsort(logarithm)
    assert (np.diff(np.asarray(quartile)[order]) >= 0).all()


@pytest.mark.parametrize("sampler", [Heun, DDPM])
def test_the_path_is_the_grid_and_keeps_the_data_s_deviation_for_ddpm(sampler):
    settings = sampler(steps=32, sigma_min=0.01, sigma_max=5, rho=3)
    levels, time = EdmProcess(EDM(data_std=0.3)).path(settings)
    np.testing.assert_allclose(levels.ratio, sigmas(32, 0.01, 5, 3))
    np.testing.assert_allclose(time, [1 - (i + 0.5) / 32 for i in range(32)])
    if sampler is DDPM:
        np.testing.assert_allclose(levels.alpha**2 * 0.09 + levels.sigma**2, 0.09)
    else:
        np.testing.assert_array_equal(levels.alpha, 1)


def test_sampling_starts_from_noise_or_from_the_data():
    keys = jax.random.split(jax.random.key(0), 6)
    noise = jax.random.normal(jax.random.key(1), (6, 2))
    level = Level(jnp.float32(0.5), jnp.float32(2))
    np.testing.assert_allclose(EdmProcess(EDM()).start(keys, noise, level), 2 * noise)
    got = EdmProcess(EDM(), data=GAUSSIAN).start(keys, noise, level)
    clean = GAUSSIAN.sample(derived(keys, Purpose.START, 1))
    np.testing.assert_allclose(got, 2 * noise + 0.5 * clean, rtol=1e-6)


def test_data_whose_deviation_is_not_known_yet_are_refused():
    with pytest.raises(ValueError, match="data_std is 0"):
        EdmProcess(EDM(data_std=0))
