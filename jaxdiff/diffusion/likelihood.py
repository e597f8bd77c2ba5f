"""Gaussian terms of the variational bound, in nats (Ho et al. 2020, arXiv:2006.11239)."""

import math

import jax.numpy as jnp


def normal_kl(mean1, log_variance1, mean2, log_variance2):
    """KL(N(mean1, variance1) || N(mean2, variance2)), elementwise."""
    return 0.5 * (
        log_variance2
        - log_variance1
        - 1
        + jnp.exp(log_variance1 - log_variance2)
        + (mean1 - mean2) ** 2 * jnp.exp(-log_variance2)
    )


def _normal_cdf(z):
    # The tanh approximation, as in the reference: bits per dimension are compared to four digits.
    return 0.5 * (1 + jnp.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))


def discretized_log_likelihood(x, mean, log_variance):
    """Log p(x) of 8-bit values under a Gaussian integrated over each value's bin, elementwise.

    Args:
      x: uint8 values rescaled to [-1, 1]; the lowest and highest bins reach to infinity.
      mean, log_variance: of the Gaussian, broadcastable to x.
    """
    inverse_std = jnp.exp(-0.5 * log_variance)
    upper = _normal_cdf((x - mean + 1 / 255) * inverse_std)
    lower = _normal_cdf((x - mean - 1 / 255) * inverse_std)
    probability = jnp.where(x < -0.999, upper, jnp.where(x > 0.999, 1 - lower, upper - lower))
    return jnp.log(jnp.maximum(probability, 1e-12))
