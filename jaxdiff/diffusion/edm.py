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

from jaxdiff.diffusion.denoiser import Level, Prediction, per_sample
from jaxdiff.diffusion.likelihood import sample_mean
from jaxdiff.diffusion.randomness import Purpose, derived
from jaxdiff.errors import UserError
from jaxdiff.numbers import whole

MAX_STEPS = 100_000


def sigmas(num_steps, sigma_min, sigma_max, rho):
    """The levels that a sampler of N steps visits: [N + 1] float64, falling, the last one 0.

    Args:
      num_steps: N, 1 to MAX_STEPS, or its text; with 1 the only noisy level is sigma_max.
      sigma_min: the last level but one, positive.
      sigma_max: the first level.
      rho: positive; the larger, the more levels are low ones.

    Raises:
      UserError: for numbers out of these ranges, or levels that float32 cannot tell apart.
    """
    count = whole(num_steps, MAX_STEPS)
    if not count:
        raise UserError(
            f"{num_steps!r} is no number of steps through levels of sigma: set steps to a whole "
            f"number, such as 32, of at most {MAX_STEPS}."
        )
    if not 0 < sigma_min < sigma_max < math.inf:
        raise UserError(
            f"sigma_min is {sigma_min} and sigma_max is {sigma_max}: they must be positive, and "
            "sigma_min the smaller one."
        )
    if not 0 < rho < math.inf:
        raise UserError(f"rho is {rho}: it must be positive; EDM uses 7.")
    # Equation (5) over sigma_max, so that no power is too large or too small for float64.
    reach = -math.expm1((math.log(sigma_min) - math.log(sigma_max)) / rho)
    noisy = sigma_max * (1 - np.arange(count) / max(count - 1, 1) * reach) ** rho
    noisy[-1] = sigma_min if count > 1 else sigma_max
    levels = np.append(noisy, 0.0)
    with np.errstate(over="ignore"):
        as_computed = levels.astype(np.float32)
    if not (np.isfinite(as_computed[0]) and (as_computed[1:] < as_computed[:-1]).all()):
        raise UserError(
            f"{count} levels from sigma_max {sigma_max} to sigma_min {sigma_min}, spaced with rho "
            f"{rho}, do not all differ as float32 numbers: choose fewer steps, or rho 7."
        )
    return levels


@dataclasses.dataclass(frozen=True)
class Parameterization:
    """What a network's output means.

    Attributes:
      denoise: (network, x, sigma, data_std) -> x_0 [B, ...], of a network (x / sqrt(sigma^2 +
        data_std^2)) -> output and sigma shaped to broadcast over x.
      weight: (sigma, data_std) -> weight of the square error of x_0.
      time_scale: the network is told the noise level as this times ln(sigma) / 4.
    """

    denoise: Callable[..., jax.Array]
    weight: Callable[..., jax.Array]
    time_scale: float = 1.0


def _preconditioned(network, x, sigma, data_std):
    total = sigma**2 + data_std**2
    skip, out, scale = data_std**2 / total, sigma * data_std / jnp.sqrt(total), jnp.sqrt(total)
    return skip * x + out * network(x / scale)


def log_density(network, x, sigma, data_std):
    """What a network of LOG_DENSITY says of points [B, D], up to a constant: [B].

    Arguments are those of `Parameterization.denoise`.
    """
    x = x / jnp.sqrt(sigma**2 + data_std**2)
    return network(x) / sigma.reshape(-1) - 0.5 * (x**2).sum(-1)


def _of_log_density(network, x, sigma, data_std):
    score = jax.grad(lambda x: log_density(network, x, sigma, data_std).sum())(x)
    return x + sigma**2 * score


# Karras et al. 2022, Table 1. ADM's sinusoids turn by at most 1 in a unit of time, and there are
# only a few units between EDM's noise levels: told apart by a thousand times as many.
PRECONDITIONED = Parameterization(
    _preconditioned,
    lambda sigma, data_std: (sigma**2 + data_std**2) / (sigma * data_std) ** 2,
    time_scale=1000.0,
)
# Karras et al. 2024 (arXiv:2406.02507), appendix C: the network's output [B], over sigma and with a
# Gaussian's logarithm, is a log density, whose gradient is the score. The error of the score is
# weighted with sigma^2, which is 1 / sigma^2 of x_0's, as x_0 = x + sigma^2 score.
LOG_DENSITY = Parameterization(_of_log_density, lambda sigma, data_std: sigma**-2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Edm:
    """EDM's process: x = x_0 + sigma eps, with sigma drawn from a log-normal distribution.

        loss = weight(sigma) mean (D(x, sigma) - target)^2

    Attributes:
      p_mean, p_std: of ln(sigma), in training.
      data_std: the data's standard deviation.
      parameterization: what the network's output means: PRECONDITIONED or LOG_DENSITY.
      data: a distribution with a `denoiser` (x, sigma) and `sample` (keys), such as a
        GaussianMixture, where it is known: the target of training is then its E[x_0 | x], and
        sampling starts from it, blurred. None: the target is x_0, and sampling starts from noise.
    """

    p_mean: float = -1.2
    p_std: float = 1.2
    data_std: float = 0.5
    parameterization: Parameterization = PRECONDITIONED
    data: Any = None

    terms = ("loss",)

    def sigma_levels(self, num_steps, sigma_min, sigma_max, rho) -> Level:
        """Levels [N + 1] with alpha 1, noisiest first, the last one clean; float64.

        Arguments and errors are those of `sigmas`.
        """
        sigma = sigmas(num_steps, sigma_min, sigma_max, rho)
        return Level(np.ones_like(sigma), sigma)

    def preserving(self, levels) -> Level:
        """The same levels in the scaling in which x keeps the data's deviation at all of them.

        In it the largest variance of an ancestral step is right for Gaussian data; with alpha 1 it
        would be right for infinitely broad data, and x would hold more noise than is known of.
        """
        alpha = self.data_std / np.hypot(levels.ratio, self.data_std)
        return Level(alpha, alpha * levels.ratio)

    def start(self, keys, noise, level):
        """Where sampling starts, at `level` in any scaling: [B, ...].

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
        """Turns `network`: (x [B, ...], time [B], condition) -> output, into a Denoiser.

        A level in any scaling is brought to alpha 1 for the network.
        """

        def denoise(x, level, condition):
            x = x / per_sample(level.alpha, x)
            sigma = jnp.broadcast_to(jnp.asarray(level.ratio, x.dtype), x.shape[:1])
            return Prediction(self._denoise(network, x, sigma, condition))

        return denoise

    def _denoise(self, network, x, sigma, condition):
        time = self.parameterization.time_scale * jnp.log(sigma) / 4

        def apply(x):
            return network(x, time, condition)

        return self.parameterization.denoise(apply, x, per_sample(sigma, x), self.data_std)

    def draw(self, key, shape):
        """What a training step draws for x_0 of `shape`: noise levels sigma [B], and noise."""
        sigma_key, noise_key = jax.random.split(key)
        normal = jax.random.normal(sigma_key, shape[:1])
        return {
            "sigma": jnp.exp(self.p_mean + self.p_std * normal),
            "noise": jax.random.normal(noise_key, shape),
        }

    def losses(self, network, x0, condition, draws):
        """The training loss of every sample.

        Args:
          network: (x, time, condition) -> output.
          x0: [B, ...].
          condition: of each sample.
          draws: from `draw`.

        Returns:
          ({"loss": [B]}, quartile): the quarter of the distribution of sigma, 0 (clean) to 3, that
          each sample's falls in.
        """
        sigma = draws["sigma"]
        x = x0 + per_sample(sigma, x0) * draws["noise"]
        target = x0 if self.data is None else self.data.denoiser(x, sigma)
        error = sample_mean((self._denoise(network, x, sigma, condition) - target) ** 2)
        share = jax.scipy.stats.norm.cdf((jnp.log(sigma) - self.p_mean) / self.p_std)
        quartile = jnp.minimum((4 * share).astype(jnp.int32), 3)
        return {"loss": self.parameterization.weight(sigma, self.data_std) * error}, quartile
