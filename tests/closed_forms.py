"""Data whose densities, denoisers and classifiers are known in closed form, at every noise level.

Guided denoisers are derived from log densities by differentiation (`tweedie`), so that they share
nothing with the equation they are compared with.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.diffusion.denoiser import Level, Prediction, per_sample
from jaxdiff.diffusion.edm import sigmas


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Points from N(mean, std^2 I), of means [K][D] that are equally likely."""

    means: tuple[tuple[float, ...], ...]
    std: float

    def _logits(self, x, level):
        means = jnp.array(self.means)
        variance = per_sample(level.alpha**2 * self.std**2 + level.sigma**2, x)
        distance = x[:, None] - per_sample(level.alpha, x[:, None]) * means
        return -0.5 * (distance**2).sum(-1) / variance

    def log_density(self, x, level):
        """Log p(x) [B], but for a term that x [B, D] is not in."""
        return jax.nn.logsumexp(self._logits(x, level), axis=-1)

    def __call__(self, x, level, condition=None, dropout=None):
        """The exact denoiser."""
        alpha, sigma = per_sample(level.alpha, x), per_sample(level.sigma, x)
        mean = jax.nn.softmax(self._logits(x, level)) @ jnp.array(self.means)
        gain = alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2)
        return Prediction(mean + gain * (x - alpha * mean))

    def flow(self, x, level):
        """Where the deterministic flow takes x from a level: for one component."""
        (mean,) = np.asarray(self.means)
        std = np.sqrt(level.alpha**2 * self.std**2 + level.sigma**2)
        return mean + self.std * (np.asarray(x, np.float64) - level.alpha * mean) / std


A = Mixture(((0.6, 0.2), (0.3, 0.7)), 0.15)
B = Mixture(((-0.5, -0.1), (-0.2, -0.6)), 0.15)
BOTH = Mixture(A.means + B.means, 0.15)
WIDER = Mixture(A.means, 0.3)
ONE = Mixture(((0.4,),), 0.3)


def classifier(x, level):
    """The exact log p(class | x, level) of the classes A and B, but for a constant: [B, 2]."""
    return jnp.stack([A.log_density(x, level), B.log_density(x, level)], -1)


def tweedie(log_density, x, level):
    """(x + sigma^2 grad log p(x)) / alpha: the denoiser of that density."""
    score = jax.grad(lambda x: log_density(x, level).sum())(x)
    alpha, sigma = per_sample(level.alpha, x), per_sample(level.sigma, x)
    return (x + sigma**2 * score) / alpha


def edm_levels(num_steps, sigma_min=0.002, sigma_max=80.0, rho=7.0):
    """EDM's levels [N + 1], float64."""
    ratio = sigmas(num_steps, sigma_min, sigma_max, rho)
    return Level(np.ones_like(ratio), ratio)


def preserving(levels):
    """The same levels with alpha^2 + sigma^2 = 1, and the factor that x is multiplied by."""
    scale = 1 / np.sqrt(levels.alpha**2 + levels.sigma**2)
    return Level(scale * levels.alpha, scale * levels.sigma)
