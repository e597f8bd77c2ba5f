"""What a network's output means: of the clean sample, and of a step's variance.

    eps    x_0 = (x - sigma * output) / alpha     Ho et al. 2020 (arXiv:2006.11239)
    x0     x_0 = output
    v      x_0 = alpha * x - sigma * output       Salimans & Ho 2022 (arXiv:2202.00512)

for levels with alpha^2 + sigma^2 = 1. The variance is fixed, or a second half of the channels.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdiff.diffusion.denoiser import Prediction, per_sample


@dataclasses.dataclass(frozen=True)
class Parameterization:
    """What is predicted of the clean sample and its noise.

    Attributes:
      x0: (output, x, level) -> the clean sample; all [B, ...], and a variance-preserving level.
      target: (x0, noise, level) -> what the output should be, [B, ...].
    """

    x0: Callable[..., jax.Array]
    target: Callable[..., jax.Array]


def _x0_of_eps(output, x, level):
    return (x - per_sample(level.sigma, x) * output) / per_sample(level.alpha, x)


def _x0_of_v(output, x, level):
    return per_sample(level.alpha, x) * x - per_sample(level.sigma, x) * output


def _v(x0, noise, level):
    return per_sample(level.alpha, x0) * noise - per_sample(level.sigma, x0) * x0


PREDICTIONS = {
    "eps": Parameterization(_x0_of_eps, lambda x0, noise, level: noise),
    "x0": Parameterization(lambda output, x, level: output, lambda x0, noise, level: x0),
    "v": Parameterization(_x0_of_v, _v),
}


@dataclasses.dataclass(frozen=True)
class Variance:
    """Where the variance of an ancestral step comes from.

    Attributes:
      learned: the network's output has it in its second half of channels.
      prediction: (x0, that half or None) -> Prediction.
    """

    learned: bool
    prediction: Callable[..., Prediction]

    def split(self, output):
        """A network's output as (of the mean, of the variance or None)."""
        return jnp.split(output, 2, axis=-1) if self.learned else (output, None)


def _in_range(x0, values):
    return Prediction(x0, variance_fraction=(values + 1) / 2)


def _small(x0, _):
    return Prediction(x0, variance_fraction=jnp.zeros_like(x0))


VARIANCES = {
    # Nichol & Dhariwal 2021 (arXiv:2102.09672): values in [-1, 1] between the two fixed ones.
    "learned_range": Variance(True, _in_range),
    "learned": Variance(True, lambda x0, values: Prediction(x0, log_variance=values)),
    "fixed_small": Variance(False, _small),
    "fixed_large": Variance(False, lambda x0, _: Prediction(x0)),
}
