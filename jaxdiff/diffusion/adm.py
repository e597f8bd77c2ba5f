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

from jaxdiff.config import ADM, DDIM, DDPM
from jaxdiff.diffusion.ancestral import Ancestral
from jaxdiff.diffusion.denoiser import Level, diffuse, per_sample
from jaxdiff.diffusion.edm import sigmas, times_of_grid
from jaxdiff.diffusion.parameterization import PREDICTIONS, VARIANCES
from jaxdiff.diffusion.respacing import respace
from jaxdiff.diffusion.schedules import SCHEDULES
from jaxdiff.diffusion.variational_bound import sample_mean, variational_bound


@dataclasses.dataclass(frozen=True)
class Loss:
    """A training loss.

    Attributes:
      square: whether the mean square error of the network's output is part of it; a bound beside it
        trains a learned variance alone, and is left out where there is none.
      bound: T -> factor of the variational bound's terms; None to leave them out.
    """

    square: bool
    bound: Callable[[int], float] | None = None


LOSSES = {
    "simple": Loss(square=True),
    "hybrid": Loss(square=True, bound=lambda num_timesteps: num_timesteps / 1000),
    "hybrid_unscaled": Loss(square=True, bound=lambda num_timesteps: 1.0),
    "vlb": Loss(square=False, bound=lambda num_timesteps: num_timesteps),
}


@dataclasses.dataclass(frozen=True)
class AdmProcess:
    """ADM's process, of its settings.

    Timesteps t are 0 (clean) to T - 1; a network takes t as float32, times 1000 / T if
    `rescale_timesteps`.
    """

    config: ADM

    @property
    def prediction(self):
        """What the network's output means."""
        return PREDICTIONS[self.config.prediction]

    @property
    def variance(self):
        """Where the variance of an ancestral step comes from."""
        return VARIANCES[self.config.variance]

    @property
    def loss(self):
        """What training minimises."""
        return LOSSES[self.config.loss]

    @property
    def terms(self):
        """Names of the loss terms that `losses` returns."""
        has_bound = self.loss.bound and (self.variance.learned or not self.loss.square)
        parts = {"mse": self.loss.square, "vb": has_bound}
        return ("loss", *(name for name, present in parts.items() if present))

    @cached_property
    def _levels(self):
        betas = SCHEDULES[self.config.schedule](self.config.num_timesteps)
        alpha_bar = np.cumprod(1 - betas)
        return Level(np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar))

    def path(self, sampler):
        """The noise levels that a sampler visits, and the time of each step.

        DDPM and DDIM visit timesteps, respaced; other samplers EDM's grid, see `sigma_levels`.

        Args:
          sampler: settings of a sampler, such as DDIM(steps=50).

        Returns:
          (Level [N + 1] float64, noisiest first, the last one clean; time [N] float64, in [0, 1]
          and 1 for noise: timestep / T, or 1 - (i + 1/2) / N on the grid).

        Raises:
          ValueError: for steps that cannot be met, in a whole sentence.
        """
        if isinstance(sampler, DDPM | DDIM):
            kept = np.asarray(respace(self.config.num_timesteps, sampler.steps)[::-1])
            return self.levels(sampler.steps), kept / self.config.num_timesteps
        levels = self.sigma_levels(sampler)
        return levels, times_of_grid(levels)

    def levels(self, steps="") -> Level:
        """Levels [N + 1] of a respacing, noisiest first, the last one clean; float64.

        Args:
          steps: a respacing, see `respacing.respace`, which raises ValueError if it cannot be met;
            "" for all timesteps.
        """
        kept = respace(self.config.num_timesteps, steps)[::-1]
        return Level(
            np.append(self._levels.alpha[kept], 1.0), np.append(self._levels.sigma[kept], 0.0)
        )

    def sigma_levels(self, sampler) -> Level:
        """EDM's levels (Karras et al. 2022, arXiv:2206.00364) among those of training; float64.

        The grid's ends are brought into the range of sigma/alpha that the process has, and every
        level is moved to the nearest that it has, on a logarithmic scale. What becomes the same
        level is one step, so that there may be fewer than `sampler.steps`.

        Args:
          sampler: settings of a sampler with steps, sigma_min, sigma_max and rho.

        Returns:
          Levels [N + 1] with alpha 1, noisiest first, the last one clean; N <= steps.

        Raises:
          ValueError: if the grid does not overlap with the process's levels.
        """
        own = self._levels.ratio
        low, high = np.clip([sampler.sigma_min, sampler.sigma_max], own[0], own[-1])
        if low == high:
            raise ValueError(
                f"sigma_min {sampler.sigma_min} and sigma_max {sampler.sigma_max} are beyond the "
                f"noise levels of the process, {own[0]:.4g} to {own[-1]:.4g}: choose them to "
                "overlap with those."
            )
        asked, logs = sigmas(sampler.steps, low, high, sampler.rho)[:-1], np.log(own)
        nearest = np.searchsorted((logs[1:] + logs[:-1]) / 2, np.log(asked))
        kept = own[np.unique(nearest)[::-1]]
        return Level(np.ones(len(kept) + 1), np.append(kept, 0.0))

    def start(self, keys, noise, level):
        """The x that sampling starts from: noise alone, as x_T keeps nothing of the data.

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
        """Makes a Denoiser of `network`: (x [B, ...], time [B], condition, dropout) -> output.

        A level in any scaling is brought to alpha^2 + sigma^2 = 1 for the network.
        """

        def denoise(x, level, condition, dropout=None):
            x, level, time = self._inputs(x, level)
            output, values = self.variance.split(network(x, time, condition, dropout))
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
        time = timestep.astype(jnp.float32)
        config = self.config
        return time * (1000 / config.num_timesteps) if config.rescale_timesteps else time

    def draw(self, key, shape):
        """What a training step draws for x_0 of `shape`: timesteps [B] and noise."""
        time_key, noise_key = jax.random.split(key)
        return {
            "t": jax.random.randint(time_key, shape[:1], 0, self.config.num_timesteps),
            "noise": jax.random.normal(noise_key, shape),
        }

    def noisy(self, x0, draws):
        """x_t ~ q(x_t | x_0), what a classifier is trained on: (x_t, time [B], quartile [B])."""
        t = draws["t"]
        level = jax.tree.map(jnp.float32, self._levels)[t]
        return (
            diffuse(x0, draws["noise"], level),
            self._time(t),
            4 * t // self.config.num_timesteps,
        )

    def losses(self, network, x0, condition, draws, steps=""):
        """The training loss of every sample.

        Args:
          network: (x, time, condition) -> output.
          x0: [B, ...] in [-1, 1].
          condition: a Condition.
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
        timestep = jnp.asarray(respace(self.config.num_timesteps, steps))[t]
        output = network(x, self._time(timestep), condition)
        output, values = self.variance.split(output)
        terms = {}
        if "mse" in self.terms:
            target = self.prediction.target(x0, noise, level)
            terms["mse"] = sample_mean((output - target) ** 2)
            output = jax.lax.stop_gradient(output)  # The bound then trains the variance alone.
        if "vb" in self.terms:
            prediction = self.variance.prediction(self.prediction.x0(output, x, level), values)
            bits = variational_bound(ancestral, i, x0, x, prediction)
            terms["vb"] = bits * self.loss.bound(ancestral.num_steps)
        terms["loss"] = sum(terms.values())
        return terms, 4 * t // ancestral.num_steps
