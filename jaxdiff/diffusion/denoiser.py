"""The values that processes, guidance and samplers exchange.

    x_t = alpha * x_0 + sigma * eps        x_0 in [-1, 1] for images, eps ~ N(0, I)

A denoiser is a function of a network and its process,

    (x [B, ...], level, condition, dropout=None) -> Prediction

where condition is a jaxdiff.models.condition.Condition, and dropout a Dropout or None.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Level:
    """A noise level, in any scaling; or many of them.

    Attributes:
      alpha: factor of the data; positive. A scalar, [B], or [N + 1] for a grid.
      sigma: standard deviation of the noise, not negative. Shaped like alpha.
    """

    alpha: jax.Array
    sigma: jax.Array

    @property
    def ratio(self):
        """Sigma / alpha, which is EDM's sigma (Karras et al. 2022, arXiv:2206.00364)."""
        return self.sigma / self.alpha

    def __getitem__(self, index):
        return Level(self.alpha[index], self.sigma[index])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prediction:
    """A denoiser's prediction of a noisy sample.

    Attributes:
      x0: the expected clean sample, unclipped; shaped like x.
      variance_fraction: learned variance as a fraction between the smallest and the largest
        log variance of an ancestral step, shaped like x; None where it is not learned. It stays
        a fraction, because the variances depend on the sampler's steps.
      classifier_score: what classifier guidance adds to the score: the gradient of a log
        probability by the x passed in, in that x's scaling; shaped like x, None without it. How it
        enters a step is the sampler's choice.
      log_variance: of an ancestral step, where the network learned that itself; shaped like x.
    """

    x0: jax.Array
    variance_fraction: jax.Array | None = None
    classifier_score: jax.Array | None = None
    log_variance: jax.Array | None = None


Denoiser = Callable[..., Prediction]


def per_sample(value, x):
    """Shapes a scalar or [B] so that it broadcasts over x: [B, ...]."""
    value = jnp.asarray(value)
    return value.reshape(value.shape + (1,) * (x.ndim - value.ndim))


def diffuse(x0, noise, level):
    """x_t = alpha * x_0 + sigma * eps, with a level for all samples or one for each ([B])."""
    return per_sample(level.alpha, x0) * x0 + per_sample(level.sigma, x0) * noise
