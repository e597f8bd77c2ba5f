"""Ancestral sampling (Ho et al. 2020, arXiv:2006.11239, Algorithm 2), with learned variance.

    x_b ~ N(x0_weight x_0 + x_weight x_a + variance g,  variance)

from each level a to the next, b, with the coefficients of jaxdiff.diffusion.ancestral; g is the
classifier score, added after x_0 is clipped (Dhariwal & Nichol 2021, arXiv:2105.05233, Alg. 1).
"""

import dataclasses

import jax.numpy as jnp

from jaxdiff.config import DDPM
from jaxdiff.diffusion.ancestral import Ancestral
from jaxdiff.samplers.grid import Grid, clip, float32


@dataclasses.dataclass(frozen=True)
class DdpmSampler:
    """Ancestral sampling; the variance is learned, or `Ancestral.log_variance`'s."""

    config: DDPM
    evaluations = 1  # of each network in a step

    @property
    def last(self):
        """The sampler of the last step."""
        return self

    def grid(self, levels):
        """Coefficients for `levels` [N + 1], float64 NumPy, noisiest first."""
        return Grid(float32(levels), Ancestral.through(levels))

    def init(self, x):
        """What is carried from step to step: nothing."""
        del x
        return ()

    def step(self, denoise, grid, i, x, noise, carry, state):
        """One step from grid level i to i + 1.

        Args:
          denoise: (x, level, state) -> (Prediction, state).
          grid: from `grid`.
          i: the step, a traced integer.
          x: [B, ...] at level i.
          noise: like x, unit variance.
          carry: nothing, returned as it came.
          state: of the guidance.

        Returns:
          (x at level i + 1, carry, state).
        """
        steps = grid.coefficients
        prediction, state = denoise(x, grid.levels[i], state)
        mean = steps.mean(i, clip(prediction.x0, self.config.clip), x)
        log_variance = steps.log_variance(i, prediction)
        if prediction.classifier_score is not None:
            mean += jnp.exp(log_variance) * prediction.classifier_score
        is_last = i == grid.num_steps - 1
        return jnp.where(is_last, mean, mean + jnp.exp(0.5 * log_variance) * noise), carry, state
