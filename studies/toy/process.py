"""A network that gives a log density: Karras et al. 2024 (arXiv:2406.02507), appendix C.

    log p(x; s) = G(x / sqrt(s^2 + d^2)) / s - |x|^2 / (2 (s^2 + d^2)) + a constant
    D(x, s)     = x + s^2 grad_x log p(x; s)

The error of the score is weighted with s^2, which is 1 / s^2 of x_0's, as x_0 = x + s^2 score.
"""

import jax
import jax.numpy as jnp

from jaxdiff.diffusion.edm import Parameterization


def log_density(network, x, sigma, data_std):
    """The log density of points [B, D] by a network, up to a constant: [B].

    Arguments are those of `Parameterization.denoise`.
    """
    x = x / jnp.sqrt(sigma**2 + data_std**2)
    return network(x) / sigma.reshape(-1) - 0.5 * (x**2).sum(-1)


def _denoise(network, x, sigma, data_std):
    score = jax.grad(lambda x: log_density(network, x, sigma, data_std).sum())(x)
    return x + sigma**2 * score


LOG_DENSITY = Parameterization(_denoise, lambda sigma, data_std: sigma**-2)
