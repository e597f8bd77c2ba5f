"""ADM's process: discrete variance-preserving noise, with its predictions and losses.

Nichol & Dhariwal 2021 (arXiv:2102.09672), Dhariwal & Nichol 2021 (arXiv:2105.05233).

    L_simple = mean (target - output)^2             the target is eps, x_0 or v
    L_hybrid = L_simple + T/1000 * L_t              the bound's gradient confined to the variance
    L_vlb    = T * L_t                              L_t: one term of the variational bound, in bits
"""

import dataclasses
from collections.abc import Callable
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.diffusion.ancestral import Ancestral
from jaxdiff.diffusion.denoiser import Level, diffuse, per_sample
from jaxdiff.diffusion.edm import sigmas
from jaxdiff.diffusion.likelihood import sample_mean, variational_bound
from jaxdiff.diffusion.parameterization import EPS, LEARNED_RANGE, Parameterization, Variance
from jaxdiff.diffusion.respacing import respace
from jaxdiff.errors import UserError


@dataclasses.dataclass(frozen=True)
class Loss:
    """A training loss.

    Attributes:
      square: the mean square error of the network's output is part of it; a bound beside it
        teaches a learned variance alone, and is left out where there is none.
      bound: T -> factor of the variational bound's terms; None to leave them out.
    """

    square: bool
    bound: Callable[[int], float] | None = None


SIMPLE = Loss(square=True)
HYBRID = Loss(square=True, bound=lambda num_timesteps: num_timesteps / 1000)
HYBRID_UNSCALED = Loss(square=True, bound=lambda num_timesteps: 1.0)
VLB = Loss(square=False, bound=lambda num_timesteps: num_timesteps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adm:
    """The process of a run.

    Attributes:
      schedule: T -> betas [T]; one of jaxdiff.diffusion.schedules.
      num_timesteps: T, at least 2.
      prediction: what the network predicts: EPS, X0 or V of jaxdiff.diffusion.parameterization.
      variance: where the variance of ancestral steps comes from: LEARNED_RANGE, ... of that module.
      loss: what training minimises.
      rescale_timesteps: the network sees t * 1000 / T.
    """

    schedule: Callable[[int], np.ndarray]
    num_timesteps: int = 1000
    prediction: Parameterization = EPS
    variance: Variance = LEARNED_RANGE
    loss: Loss = HYBRID
    rescale_timesteps: bool = False

    @cached_property
    def terms(self):
        """Names of the loss terms that `losses` returns."""
        has_bound = self.loss.bound and (self.variance.learned or not self.loss.square)
        parts = {"mse": self.loss.square, "vb": has_bound}
        return ("loss", *(name for name, present in parts.items() if present))

    @cached_property
    def _levels(self):
        alpha_bar = np.cumprod(1 - self.schedule(self.num_timesteps))
        return Level(np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar))

    def levels(self, steps) -> Level:
        """Levels [N + 1] that a sampler visits, noisiest first, the last one clean; float64.

        Args:
          steps: a respacing, see `respacing.respace`, which raises UserError for a bad one.
        """
        kept = respace(self.num_timesteps, steps)[::-1]
        return Level(
            np.append(self._levels.alpha[kept], 1.0), np.append(self._levels.sigma[kept], 0.0)
        )

    def times(self, steps):
        """Times [N] in [0, 1) of the steps through `levels`, timestep / T, 1 being noise."""
        return np.asarray(respace(self.num_timesteps, steps)[::-1]) / self.num_timesteps

    def sigma_levels(self, num_steps, sigma_min, sigma_max, rho) -> Level:
        """EDM's levels (Karras et al. 2022, arXiv:2206.00364) among those of training; float64.

        The grid's ends are brought into the range of sigma/alpha that the process has, and every
        level is moved to the nearest that it has, on a logarithmic scale. What becomes the same
        level is one step, so that there may be fewer than asked for.

        Args:
          num_steps, sigma_min, sigma_max, rho: see `edm.sigmas`, which raises UserError for bad
            ones.

        Returns:
          Levels [N + 1] with alpha 1, noisiest first, the last one clean; N <= num_steps.
        """
        sigmas(num_steps, sigma_min, sigma_max, rho)  # Refuses bad numbers as they were given.
        own = self._levels.ratio
        low, high = np.clip([sigma_min, sigma_max], own[0], own[-1])
        if low == high:
            raise UserError(
                f"sigma_min {sigma_min} and sigma_max {sigma_max} lie beyond the noise levels of "
                f"the process, {own[0]:.4g} to {own[-1]:.4g}: choose them to overlap with those."
            )
        asked, logs = sigmas(num_steps, low, high, rho)[:-1], np.log(own)
        nearest = np.searchsorted((logs[1:] + logs[:-1]) / 2, np.log(asked))
        kept = own[np.unique(nearest)[::-1]]
        return Level(np.ones(len(kept) + 1), np.append(kept, 0.0))

    def start(self, keys, noise, level):
        """Where sampling starts: noise alone, as x_T keeps nothing of the data.

        Args:
          keys: [B], each sample's; nothing more is drawn from them.
          noise: [B, ...], unit variance.
          level: the sampler's first, in any scaling; x has its scaling and the variance
            alpha^2 + sigma^2 there, which is that of data of unit variance.
        """
        del keys
        return noise * jnp.sqrt(level.alpha**2 + level.sigma**2)

    def timestep(self, level):
        """The timestep whose sigma/alpha is nearest to the level's, on a logarithmic scale."""
        table = jnp.asarray(np.log(self._levels.ratio), jnp.float32)
        distance = jnp.abs(jnp.log(level.ratio)[..., None] - table)
        return jnp.argmin(distance, axis=-1)

    def denoiser(self, network):
        """Turns `network`: (x [B, ...], time [B], condition) -> output, into a Denoiser.

        A level in any scaling is brought to alpha^2 + sigma^2 = 1 for the network.
        """

        def denoise(x, level, condition):
            x, level, time = self._inputs(x, level)
            output, values = self.variance.split(network(x, time, condition))
            return self.variance.prediction(self.prediction.x0(output, x, level), values)

        return denoise

    def classifier(self, network):
        """Turns `network`: (x [B, ...], time [B]) -> logits, into (x, level) -> logits."""

        def classify(x, level):
            x, _, time = self._inputs(x, level)
            return network(x, time)

        return classify

    def _inputs(self, x, level):
        scale = jax.lax.rsqrt(level.alpha**2 + level.sigma**2)
        time = jnp.broadcast_to(self._time(self.timestep(level)), x.shape[:1])
        return per_sample(scale, x) * x, Level(scale * level.alpha, scale * level.sigma), time

    def _time(self, timestep):
        """What a network is told of a timestep, float32."""
        time = timestep.astype(jnp.float32)
        return time * (1000 / self.num_timesteps) if self.rescale_timesteps else time

    def draw(self, key, shape):
        """What a training step draws for x_0 of `shape`: timesteps [B] and noise."""
        time_key, noise_key = jax.random.split(key)
        return {
            "t": jax.random.randint(time_key, shape[:1], 0, self.num_timesteps),
            "noise": jax.random.normal(noise_key, shape),
        }

    def noisy(self, x0, draws):
        """x_t ~ q(x_t | x_0) for a network that does not denoise: (x_t, time [B], quartile [B])."""
        t = draws["t"]
        level = jax.tree.map(jnp.float32, self._levels)[t]
        return (
            diffuse(x0, draws["noise"], level),
            self._time(t),
            4 * t // self.num_timesteps,
        )

    def losses(self, network, x0, condition, draws, steps=""):
        """The training loss of every sample.

        Args:
          network: (x, time, condition) -> output.
          x0: [B, ...] in [-1, 1].
          condition: of each sample.
          draws: from `draw`.
          steps: a respacing to compute the loss on, which `draws["t"]` then counts.

        Returns:
          (losses, quartile): a dict of [B] with all of `terms`; and the quarter of the timesteps,
          0 (clean) to 3, that each sample's falls in.
        """
        t, noise = draws["t"], draws["noise"]
        levels = self.levels(steps)
        ancestral = Ancestral.through(levels)
        i = ancestral.num_steps - 1 - t
        level = jax.tree.map(jnp.float32, levels)[i]
        x = diffuse(x0, noise, level)
        timestep = jnp.asarray(respace(self.num_timesteps, steps))[t]
        output = network(x, self._time(timestep), condition)
        output, values = self.variance.split(output)
        terms = {}
        if "mse" in self.terms:
            target = self.prediction.target(x0, noise, level)
            terms["mse"] = sample_mean((output - target) ** 2)
            output = jax.lax.stop_gradient(output)  # The bound then teaches the variance alone.
        if "vb" in self.terms:
            prediction = self.variance.prediction(self.prediction.x0(output, x, level), values)
            bits = variational_bound(ancestral, i, x0, x, prediction)
            terms["vb"] = bits * self.loss.bound(ancestral.num_steps)
        terms["loss"] = sum(terms.values())
        return terms, 4 * t // ancestral.num_steps
