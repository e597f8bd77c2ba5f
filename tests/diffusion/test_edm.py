import decimal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.diffusion.denoiser import Condition, Level
from jaxdiff.diffusion.edm import LOG_DENSITY, PRECONDITIONED, Edm, sigmas
from jaxdiff.diffusion.mixture import GaussianMixture
from jaxdiff.diffusion.randomness import Purpose, derived
from jaxdiff.errors import UserError


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
    ("arguments", "words"),
    [
        ((0, 0.002, 80, 7), "0 is no number of steps.*a whole number, such as 32"),
        (("ddim25", 0.002, 80, 7), "'ddim25' is no number of steps"),
        ((32, 80, 80, 7), "sigma_min the smaller one"),
        ((32, 0, 80, 7), "must be positive"),
        ((32, 0.002, float("inf"), 7), "sigma_max is inf"),
        ((32, float("nan"), 80, 7), "sigma_min is nan"),
        ((32, 0.002, 80, 0), "rho is 0"),
        (("²", 0.002, 80, 7), "'²' is no number of steps"),
        (("9" * 5000, 0.002, 80, 7), "is no number of steps"),
        ((99_999_999_999, 0.002, 80, 7), "is no number of steps"),
        ((32, 1, 1 + 1e-6, 7), "do not all differ"),
        ((100_000, 79.9, 80, 7), "do not all differ"),
        ((32, 1e-300, 80, 7), "do not all differ"),
        ((32, 0.002, 1e300, 7), "do not all differ"),
    ],
)
def test_grids_that_cannot_be_are_refused(arguments, words):
    with pytest.raises(UserError, match=words):
        sigmas(*arguments)


# Points of N(mean, .5^2 I): the denoiser is a straight line, and known.
MEAN = np.array([0.3, -0.7])
GAUSSIAN = GaussianMixture(np.ones(1), MEAN[None], 0.25 * np.eye(2)[None])
CONDITION = Condition()


def points(count=64):
    x = np.random.default_rng(0).standard_normal((count, 2)).astype(np.float32)
    return x, np.geomspace(0.01, 50, count).astype(np.float32)


def gaussian_output(x, time, condition):
    """What a preconditioned network answers that knows the Gaussian, from Table 1 of EDM."""
    sigma = jnp.exp(4 * time / PRECONDITIONED.time_scale)[:, None]
    x = x * jnp.sqrt(sigma**2 + 0.25)
    denoised = (0.25 * x + sigma**2 * MEAN) / (sigma**2 + 0.25)
    skip, out = 0.25 / (sigma**2 + 0.25), 0.5 * sigma / jnp.sqrt(sigma**2 + 0.25)
    return (denoised - skip * x) / out


def gaussian_log_density(x, time, condition):
    """The same for a network of a log density: all but what `Edm` adds, times sigma."""
    sigma = jnp.exp(4 * time)
    scale = jnp.sqrt(sigma**2 + 0.25)
    centred = x - MEAN / scale[:, None]
    return 0.5 * sigma * ((x**2).sum(1) - (centred**2).sum(1))


NETWORKS = [
    pytest.param(PRECONDITIONED, gaussian_output, id="preconditioned"),
    pytest.param(LOG_DENSITY, gaussian_log_density, id="log_density"),
]


@pytest.mark.parametrize(("parameterization", "network"), NETWORKS)
@pytest.mark.parametrize("alpha", [1.0, 0.2])
def test_a_perfect_network_denoises_in_any_scaling(parameterization, network, alpha):
    x, sigma = points()
    process = Edm(parameterization=parameterization)
    level = Level(jnp.full(len(x), alpha), alpha * sigma)
    got = process.denoiser(network)(alpha * x, level, CONDITION).x0
    np.testing.assert_allclose(got, GAUSSIAN.denoiser(x, sigma), rtol=1e-3, atol=2e-4)


def test_a_level_may_be_for_all():
    x, _ = points()
    level = Level(jnp.ones(()), jnp.float32(0.3))
    got = Edm().denoiser(gaussian_output)(x, level, CONDITION).x0
    np.testing.assert_allclose(got, GAUSSIAN.denoiser(x, 0.3), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("parameterization", "network"), NETWORKS)
def test_with_known_data_a_perfect_network_has_no_loss(parameterization, network):
    process = Edm(parameterization=parameterization, data=GAUSSIAN)
    x0, _ = points()
    draws = process.draw(jax.random.key(0), x0.shape)
    terms, _ = process.losses(network, x0, CONDITION, draws)
    assert terms.keys() == set(process.terms)
    np.testing.assert_allclose(terms["loss"], 0, atol=1e-4)


def test_the_loss_of_images_is_edm_s():
    x0, _ = points()
    process = Edm()
    draws = process.draw(jax.random.key(0), x0.shape)
    terms, _ = process.losses(lambda x, *_: 0 * x + 0.2, x0, CONDITION, draws)
    sigma, noise = (np.asarray(draws[name], np.float64) for name in ("sigma", "noise"))
    s = sigma[:, None]
    d = (0.25 * (x0 + s * noise) + 0.5 * s * np.sqrt(s**2 + 0.25) * 0.2) / (s**2 + 0.25)
    weight = (sigma**2 + 0.25) / (0.5 * sigma) ** 2
    np.testing.assert_allclose(terms["loss"], weight * ((d - x0) ** 2).mean(1), rtol=1e-3)


def test_the_loss_of_log_densities_is_that_of_scores():
    x0, _ = points()
    process = Edm(parameterization=LOG_DENSITY, data=GAUSSIAN)
    draws = process.draw(jax.random.key(0), x0.shape)
    terms, _ = process.losses(lambda x, *_: 0 * x[:, 0], x0, CONDITION, draws)
    sigma = draws["sigma"]
    x = x0 + sigma[:, None] * draws["noise"]
    score = -x / (sigma[:, None] ** 2 + 0.25)
    error = ((GAUSSIAN.score(x, sigma) - score) ** 2).mean(1)
    np.testing.assert_allclose(terms["loss"], sigma**2 * error, rtol=1e-2, atol=1e-5)


def test_noise_levels_are_log_normal_and_quartiles_their_quarters():
    process = Edm(p_mean=-2.3, p_std=1.5)
    x0 = np.zeros((20_000, 1), np.float32)
    draws = process.draw(jax.random.key(0), x0.shape)
    logarithm = np.log(draws["sigma"])
    np.testing.assert_allclose([logarithm.mean(), logarithm.std()], [-2.3, 1.5], atol=0.05)
    _, quartile = process.losses(lambda x, *_: x, x0, CONDITION, draws)
    np.testing.assert_allclose(np.bincount(quartile) / 20_000, 0.25, atol=0.02)
    order = np.argsort(logarithm)
    assert (np.diff(np.asarray(quartile)[order]) >= 0).all()


def test_levels_are_the_grid():
    process = Edm()
    levels = process.sigma_levels("32", 0.01, 5, 3)
    np.testing.assert_array_equal(levels.ratio, sigmas(32, 0.01, 5, 3))


def test_sampling_starts_from_noise_or_from_the_data():
    keys = jax.random.split(jax.random.key(0), 6)
    noise = jax.random.normal(jax.random.key(1), (6, 2))
    level = Level(jnp.float32(0.5), jnp.float32(2))
    np.testing.assert_allclose(Edm().start(keys, noise, level), 2 * noise)
    got = Edm(data=GAUSSIAN).start(keys, noise, level)
    clean = GAUSSIAN.sample(derived(keys, Purpose.START, 1))
    np.testing.assert_allclose(got, 2 * noise + 0.5 * clean, rtol=1e-6)
