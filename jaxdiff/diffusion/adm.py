"""ADM's process: discrete variance-preserving noise, eps prediction, learned variance.

Nichol & Dhariwal 2021 (arXiv:2102.09672), Dhariwal & Nichol 2021 (arXiv:2105.05233).

    L_simple = mean (eps - eps_theta)^2
    L_hybrid = L_simple + T/1000 * L_vb,     L_vb = KL(q(x_{t-1} | x_t, x_0) || p_theta) in bits
"""

import dataclasses
import math
from collections.abc import Callable
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.diffusion.ancestral import Ancestral
from jaxdiff.diffusion.denoiser import Level, Prediction, diffuse, per_sample
from jaxdiff.diffusion.likelihood import discretized_log_likelihood, normal_kl
from jaxdiff.diffusion.respacing import respace


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adm:
    """The process of a run.

    Attributes:
      schedule: T -> betas [T]; one of jaxdiff.diffusion.schedules.
      num_timesteps: T, at least 2.
      learn_variance: the network's second half of channels is the variance fraction, in [-1, 1].
      hybrid: train with L_hybrid, which learns the variance; otherwise L_simple.
    """

    schedule: Callable[[int], np.ndarray]
    num_timesteps: int = 1000
    learn_variance: bool = True
    hybrid: bool = True

    @property
    def terms(self):
        """Names of the loss terms that `losses` returns."""
        return ("loss", "mse", "vb") if self.hybrid else ("loss", "mse")

    @cached_property
    def _levels(self):
        alpha_bar = np.cumprod(1 - self.schedule(self.num_timesteps))
        return Level(np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar))

    @property
    def _ancestral(self):
        return Ancestral.through(self.levels(""))

    def levels(self, steps) -> Level:
        """Levels [N + 1] that a sampler visits, noisiest first, the last one clean; float64.

        Args:
          steps: a respacing, see `respacing.respace`, which raises UserError for a bad one.
        """
        kept = respace(self.num_timesteps, steps)[::-1]
        return Level(
            np.append(self._levels.alpha[kept], 1.0), np.append(self._levels.sigma[kept], 0.0)
        )

    def start(self, noise, level):
        """Where sampling starts: unit noise, as x_T keeps nothing of the data."""
        del level
        return noise

    def timestep(self, level):
        """The timestep whose sigma/alpha is nearest to the level's, on a logarithmic scale."""
        table = jnp.asarray(np.log(self._levels.ratio), jnp.float32)
        distance = jnp.abs(jnp.log(level.ratio)[..., None] - table)
        return jnp.argmin(distance, axis=-1)

    def denoiser(self, network):
        """Turns `network`: (x [B, ...], time [B], embedding) -> output, into a Denoiser.

        A level in any scaling is brought to alpha^2 + sigma^2 = 1 for the network.
        """

        def denoise(x, level, condition):
            scale = jax.lax.rsqrt(level.alpha**2 + level.sigma**2)
            time = jnp.broadcast_to(self.timestep(level), x.shape[:1]).astype(jnp.float32)
            output = network(per_sample(scale, x) * x, time, condition.embedding)
            eps, fraction = self._split(output)
            x0 = (x - per_sample(level.sigma, x) * eps) / per_sample(level.alpha, x)
            return Prediction(x0, fraction)

        return denoise

    def _split(self, output):
        if not self.learn_variance:
            return output, None
        eps, values = jnp.split(output, 2, axis=-1)
        return eps, (values + 1) / 2

    def draw(self, key, shape):
        """What a training step draws for x_0 of `shape`: timesteps [B] and noise."""
        time_key, noise_key = jax.random.split(key)
        return {
            "t": jax.random.randint(time_key, shape[:1], 0, self.num_timesteps),
            "noise": jax.random.normal(noise_key, shape),
        }

    def losses(self, network, x0, condition, draws):
        """The training loss of every sample.

        Args:
          network: (x, time, embedding) -> output.
          x0: [B, ...] in [-1, 1].
          condition: of each sample.
          draws: from `draw`.

        Returns:
          (losses, quartile): a dict of [B] with `loss` and its terms `mse` and, if hybrid, `vb`;
          and the quarter of the timesteps, 0 (clean) to 3, that each sample's falls in.
        """
        t, noise = draws["t"], draws["noise"]
        levels = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32)[t], self._levels)
        x = diffuse(x0, noise, levels)
        output = network(x, t.astype(jnp.float32), condition.embedding)
        eps, fraction = self._split(output)
        terms = {"mse": _mean((eps - noise) ** 2)}
        terms["loss"] = terms["mse"]
        if self.hybrid:
            eps = jax.lax.stop_gradient(eps)
            x0_hat = (x - per_sample(levels.sigma, x) * eps) / per_sample(levels.alpha, x)
            bits = variational_bound(self._ancestral, t, x0, x, x0_hat, fraction)
            terms["vb"] = bits * self.num_timesteps / 1000
            terms["loss"] = terms["mse"] + terms["vb"]
        return terms, 4 * t // self.num_timesteps


def variational_bound(ancestral, t, x0, x, x0_hat, fraction):
    """One timestep's term of the variational bound, in bits per dimension: [B].

    Args:
      ancestral: the process's T steps, noisiest first.
      t: [B] timesteps; 0 is the last step, whose term is a decoder's likelihood of 8-bit data.
      x0, x: [B, ...], clean and noisy.
      x0_hat, fraction: the model's estimate of x0, and its variance fraction or None.
    """
    step = ancestral.log_large.shape[0] - 1 - t
    mean = ancestral.mean(step, x0_hat, x)
    log_variance = ancestral.log_variance(step, fraction, x)
    kl = normal_kl(
        ancestral.mean(step, x0, x), per_sample(ancestral.log_small[step], x), mean, log_variance
    )
    decoder = -discretized_log_likelihood(x0, mean, log_variance)
    return jnp.where(t == 0, _mean(decoder), _mean(kl)) / math.log(2)


def _mean(x):
    return x.mean(tuple(range(1, x.ndim)))
