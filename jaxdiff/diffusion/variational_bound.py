"""The variational bound on the likelihood (Ho et al. 2020, arXiv:2006.11239, equation 5).

    -log p(x_0) <= KL(q(x_T | x_0) || N(0, I)) + sum_t KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t))

whose last term, at t = 0, is a decoder's -log p(x_0 | x_1) of 8-bit data.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from jaxdiff.diffusion.ancestral import Ancestral
from jaxdiff.diffusion.denoiser import diffuse, per_sample


def normal_kl(mean1, log_variance1, mean2, log_variance2):
    """KL(N(mean1, variance1) || N(mean2, variance2)) in nats, elementwise."""
    return 0.5 * (
        log_variance2
        - log_variance1
        - 1
        + jnp.exp(log_variance1 - log_variance2)
        + (mean1 - mean2) ** 2 * jnp.exp(-log_variance2)
    )


def _normal_cdf(z):
    # The tanh approximation, as in the reference: bits per dimension are compared to four decimals.
    return 0.5 * (1 + jnp.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))


def discretized_log_likelihood(x, mean, log_variance):
    """Log p(x) in nats of 8-bit values under a Gaussian integrated over their bins, elementwise.

    Args:
      x: uint8 values rescaled to [-1, 1]; the lowest and highest bins reach to infinity.
      mean, log_variance: of the Gaussian, broadcastable to x.
    """
    inverse_std = jnp.exp(-0.5 * log_variance)
    upper = _normal_cdf((x - mean + 1 / 255) * inverse_std)
    lower = _normal_cdf((x - mean - 1 / 255) * inverse_std)
    probability = jnp.where(x < -0.999, upper, jnp.where(x > 0.999, 1 - lower, upper - lower))
    return jnp.log(jnp.maximum(probability, 1e-12))


def variational_bound(ancestral, i, x0, x, prediction):
    """One step's term of the bound, in bits per dimension: [B].

    Args:
      ancestral: N steps, noisiest first.
      i: which step, a scalar or [B]; the last one's term is the decoder's.
      x0, x: [B, ...], clean, and noisy before the step.
      prediction: the model's, of x.
    """
    mean = ancestral.mean(i, prediction.x0, x)
    log_variance = ancestral.log_variance(i, prediction)
    kl = normal_kl(
        ancestral.mean(i, x0, x), per_sample(ancestral.log_small[i], x), mean, log_variance
    )
    decoder = -discretized_log_likelihood(x0, mean, log_variance)
    is_last = i == ancestral.num_steps - 1
    return jnp.where(is_last, sample_mean(decoder), sample_mean(kl)) / math.log(2)


def bits_per_dimension(denoise, levels, x0, noise, clip=True):
    """The whole bound of every sample, each step's term estimated with one draw of noise.

    Args:
      denoise: (x, level) -> Prediction.
      levels: N + 1 of the process, float64 NumPy, noisiest first.
      x0: [B, ...] in [-1, 1], of 8-bit data.
      noise: step i, traced -> [B, ...], unit variance.
      clip: confine the predicted x0 to [-1, 1].

    Returns:
      A dict: `total_bpd` [B], the sum of `prior_bpd` [B] and of `vb` [B, N] over the steps, the
      noisiest first; and the mean square errors of the predicted x0 and of the noise derived
      from it, `xstart_mse` and `mse` [B, N].
    """
    ancestral, table = Ancestral.through(levels), jax.tree.map(jnp.float32, levels)

    def terms(i):
        level, eps = table[i], noise(i)
        x = diffuse(x0, eps, level)
        prediction = denoise(x, level)
        if clip:
            prediction = dataclasses.replace(prediction, x0=jnp.clip(prediction.x0, -1, 1))
        predicted_eps = (x - level.alpha * prediction.x0) / level.sigma
        return {
            "vb": variational_bound(ancestral, i, x0, x, prediction),
            "xstart_mse": sample_mean((prediction.x0 - x0) ** 2),
            "mse": sample_mean((predicted_eps - eps) ** 2),
        }

    bits = jax.tree.map(jnp.transpose, jax.lax.map(terms, jnp.arange(ancestral.num_steps)))
    bits["prior_bpd"] = prior_bits(levels[0], x0)
    bits["total_bpd"] = bits["vb"].sum(1) + bits["prior_bpd"]
    return bits


def prior_bits(level, x0):
    """KL(q(x_T | x_0) || N(0, I)) in bits per dimension, for the level of x_T: [B]."""
    kl = normal_kl(level.alpha * x0, 2 * math.log(level.sigma), 0.0, 0.0)
    return sample_mean(kl) / math.log(2)


def sample_mean(x):
    """Mean of every sample of x: [B, ...] -> [B]."""
    return x.mean(tuple(range(1, x.ndim)))
