"""EDM's process: Karras et al. 2022 (arXiv:2206.00364). Continuous noise levels, alpha = 1.

    D(x, s) = c_skip x + c_out F(c_in x, c_noise)                                              (7)
    c_skip = d^2 / (s^2 + d^2),  c_out = s d / sqrt(s^2 + d^2),  c_in = 1 / sqrt(s^2 + d^2)
    loss = (s^2 + d^2) / (s d)^2 mean (D(x_0 + s eps, s) - x_0)^2,   ln s ~ N(p_mean, p_std^2)

for data of standard deviation d. A sampler of N steps visits

sigma_i = (max^(1/rho) + i / (N - 1) (min^(1/rho) - max^(1/rho)))^rho,  sigma_N = 0        (5)
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.config import DDPM, EDM
from jaxdiff.config.samplers import MOST_STEPS
from jaxdiff.diffusion.denoiser import Level, Prediction, per_sample
from jaxdiff.diffusion.randomness import Purpose, derived
from jaxdiff.diffusion.variational_bound import sample_mean
from jaxdiff.numbers import whole


def sigmas(steps, sigma_min, sigma_max, rho):
    """The levels that a sampler of N steps visits: [N + 1] float64, falling, the last one 0.

    Args:
      steps: N, at least 1, or its text; with 1 the only noisy level is sigma_max.
      sigma_min: the last level but one, positive.
      sigma_max: the first level.
      rho: positive; the larger, the more levels are low ones.

    Raises:
      ValueError: for a respacing, which only ADM's process has, and for levels that are the same
        in float32; in a whole sentence.
    """
    count = whole(steps, MOST_STEPS)
    if not count:
        raise ValueError(
            f"steps is {steps!r}: on levels of sigma it must be a whole number, such as 32, of at "
            f"most {MOST_STEPS}."
        )
    # Equation (5) over sigma_max, so that no power is too large or too small for float64.
    reach = -math.expm1((math.log(sigma_min) - math.log(sigma_max)) / rho)
    noisy = sigma_max * (1 - np.arange(count) / max(count - 1, 1) * reach) ** rho
    noisy[-1] = sigma_min if count > 1 else sigma_max
    levels = np.append(noisy, 0.0)
    if not (np.diff(levels.astype(np.float32)) < 0).all():
        raise ValueError(
            f"{count} levels from sigma_max {sigma_max} to sigma_min {sigma_min}, spaced with rho "
            f"{rho}, do not all differ as float32 numbers: choose fewer steps, or rho 7."
        )
    return levels


def times_of_grid(levels):
    """The time of each of N steps through levels [N + 1] of sigma: 1 - (i + 1/2) / N, float64."""
    count = len(levels.sigma) - 1
    return 1 - (np.arange(count) + 0.5) / count


@dataclasses.dataclass(frozen=True)
class Parameterization:
    """What a network's output means.

    Attributes:
      denoise: (network, x, sigma, data_std) -> x_0 [B, ...], of a network (x / sqrt(sigma^2 +
        data_std^2)) -> output and sigma shaped to broadcast over x.
      weight: (sigma, data_std) -> weight of the square error of x_0.
      time_scale: the network's time is this times ln(sigma) / 4.
    """

    denoise: Callable[..., jax.Array]
    weight: Callable[..., jax.Array]
    time_scale: float = 1.0


def _preconditioned(network, x, sigma, data_std):
    total = sigma**2 + data_std**2
    skip, out, scale = data_std**2 / total, sigma * data_std / jnp.sqrt(total), jnp.sqrt(total)
    return skip * x + out * network(x / scale)


# Karras et al. 2022, Table 1. ADM's sinusoids turn by at most 1 in a unit of time, and there are
# only a few units between EDM's noise levels: the time scale spreads them over a thousand times as
# many.
PRECONDITIONED = Parameterization(
    _preconditioned,
    lambda sigma, data_std: (sigma**2 + data_std**2) / (sigma * data_std) ** 2,
    time_scale=1000.0,
)


@dataclasses.dataclass(frozen=True)
class EdmProcess:
    """EDM's process: x = x_0 + sigma eps, with sigma drawn from a log-normal distribution.

        loss = weight(sigma) mean (D(x, sigma) - target)^2

    Attributes:
      config: its settings, with the data's standard deviation.
      parameterization: what the network's output means.
      data: a distribution with `denoiser`: (x [B, ...], sigma [B]) -> E[x_0 | x], and `sample`:
        keys [B] -> x_0, where it is known: the target of training is then E[x_0 | x], and sampling
        starts from the distribution, blurred. None: the target is x_0, and sampling starts from
        noise.
    """

    config: EDM
    parameterization: Parameterization = PRECONDITIONED
    data: Any = None

    terms = ("loss",)

    def __post_init__(self):
        """Raises ValueError if the data's standard deviation has yet to be measured."""
        if not self.config.data_std:
            raise ValueError(
                "diffusion.data_std is 0, which a run replaces by what it measures when it begins: "
                "train it first, or state the number."
            )

    def path(self, sampler):
        """The noise levels that a sampler visits, and the time of each step.

        All visit the grid of equation (5), DDPM in the scaling in which x keeps the data's
        deviation at all levels: sqrt(alpha^2 d^2 + sigma^2) = d. In it the largest variance of an
        ancestral step is right for Gaussian data; with alpha 1 it would be right for infinitely
        broad data, and x would hold more noise than its level.

        Args:
          sampler: settings of a sampler with steps, sigma_min, sigma_max and rho, such as Heun().

        Returns:
          (Level [N + 1] float64, noisiest first, the last one clean; time [N] float64, 1 - (i +
          1/2) / N, which is 1 for noise).

        Raises:
          ValueError: for steps that cannot be met, in a whole sentence.
        """
        sigma = sigmas(sampler.steps, sampler.sigma_min, sampler.sigma_max, sampler.rho)
        levels = Level(np.ones_like(sigma), sigma)
        if isinstance(sampler, DDPM):
            alpha = self.config.data_std / np.hypot(sigma, self.config.data_std)
            levels = Level(alpha, alpha * sigma)
        return levels, times_of_grid(levels)

    def start(self, keys, noise, level):
        """The x that sampling starts from, at `level` in any scaling: [B, ...].

        Args:
          keys: [B], each sample's, from which a clean one is drawn where the data are known.
          noise: [B, ...], unit variance.
          level: the sampler's first.
        """
        x = noise * level.sigma
        if self.data is None:
            return x
        return x + level.alpha * self.data.sample(derived(keys, Purpose.START, 1))

    def denoiser(self, network):
        """Makes a Denoiser of `network`: (x [B, ...], time [B], condition, dropout) -> output.

        A level in any scaling is brought to alpha 1 for the network.
        """

        def denoise(x, level, condition, dropout=None):
            x = x / per_sample(level.alpha, x)
            sigma = jnp.broadcast_to(jnp.asarray(level.ratio, x.dtype), x.shape[:1])
            return Prediction(self._denoise(network, x, sigma, condition, dropout))

        return denoise

    def _denoise(self, network, x, sigma, *condition):
        time = self.parameterization.time_scale * jnp.log(sigma) / 4

        def apply(x):
            return network(x, time, *condition)

        data_std = self.config.data_std
        return self.parameterization.denoise(apply, x, per_sample(sigma, x), data_std)

    def draw(self, key, shape):
        """What a training step draws for x_0 of `shape`: noise levels sigma [B], and noise."""
        sigma_key, noise_key = jax.random.split(key)
        normal = jax.random.normal(sigma_key, shape[:1])
        return {
            "sigma": jnp.exp(self.config.p_mean + self.config.p_std * normal),
            "noise": jax.random.normal(noise_key, shape),
        }

    def losses(self, network, x0, condition, draws):
        """The training loss of every sample.

        Args:
          network: (x, time, condition) -> output.
          x0: [B, ...].
          condition: a Condition.
          draws: from `draw`.

        Returns:
          ({"loss": [B]}, quartile): the quarter of the distribution of sigma, 0 (clean) to 3, that
          each sample's falls in.
        """
        sigma, config = draws["sigma"], self.config
        x = x0 + per_sample(sigma, x0) * draws["noise"]
        target = x0 if self.data is None else self.data.denoiser(x, sigma)
        error = sample_mean((self._denoise(network, x, sigma, condition) - target) ** 2)
        share = jax.scipy.stats.norm.cdf((jnp.log(sigma) - config.p_mean) / config.p_std)
        quartile = jnp.minimum((4 * share).astype(jnp.int32), 3)
        return {"loss": self.parameterization.weight(sigma, config.data_std) * error}, quartile
