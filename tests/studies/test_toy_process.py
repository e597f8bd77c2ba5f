"""Oracles: points of a Gaussian, whose density, score and denoiser are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.config import EDM
from jaxdiff.diffusion.denoiser import Level
from jaxdiff.diffusion.edm import EdmProcess
from jaxdiff.models.condition import Condition
from studies.toy.mixture import GaussianMixture
from studies.toy.process import LOG_DENSITY

MEAN = np.array([0.3, -0.7])
GAUSSIAN = GaussianMixture(np.ones(1), MEAN[None], 0.25 * np.eye(2)[None])
PROCESS = EdmProcess(EDM(), parameterization=LOG_DENSITY, data=GAUSSIAN)


def points(count=64):
    x = np.random.default_rng(0).standard_normal((count, 2)).astype(np.float32)
    return x, np.geomspace(0.01, 50, count).astype(np.float32)


def gaussian_log_density(x, time, *_):
    """The output of a network that knows the Gaussian: all but what LOG_DENSITY adds, by sigma."""
    sigma = jnp.exp(4 * time)
    scale = jnp.sqrt(sigma**2 + 0.25)
    centred = x - MEAN / scale[:, None]
    return 0.5 * sigma * ((x**2).sum(1) - (centred**2).sum(1))


@pytest.mark.parametrize("alpha", [1.0, 0.2])
def test_a_perfect_network_denoises_in_any_scaling(alpha):
    x, sigma = points()
    level = Level(jnp.full(len(x), alpha), alpha * sigma)
    got = PROCESS.denoiser(gaussian_log_density)(alpha * x, level, Condition()).x0
    np.testing.assert_allclose(got, GAUSSIAN.denoiser(x, sigma), rtol=1e-3, atol=2e-4)


def test_a_perfect_network_has_no_loss():
    x0, _ = points()
    draws = PROCESS.draw(jax.random.key(0), x0.shape)
    terms, _ = PROCESS.losses(gaussian_log_density, x0, Condition(), draws)
    np.testing.assert_allclose(terms["loss"], 0, atol=1e-4)


def test_the_loss_is_that_of_scores():
    x0, _ = points()
    draws = PROCESS.draw(jax.random.key(0), x0.shape)
    terms, _ = PROCESS.losses(lambda x, *_: 0 * x[:, 0], x0, Condition(), draws)
    sigma = draws["sigma"]
    x = x0 + sigma[:, None] * draws["noise"]
    score = -x / (sigma[:, None] ** 2 + 0.25)
    error = ((GAUSSIAN.score(x, sigma) - score) ** 2).mean(1)
    np.testing.assert_allclose(terms["loss"], sigma**2 * error, rtol=1e-2, atol=1e-5)
