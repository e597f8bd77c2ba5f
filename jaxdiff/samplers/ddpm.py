"""Ancestral sampling (Ho et al. 2020, arXiv:2006.11239, Algorithm 2), with learned variance."""

import dataclasses

import jax.numpy as jnp

from jaxdiff.diffusion.ancestral import Ancestral
from jaxdiff.samplers.grid import Grid, clip, float32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ddpm:
    """x_b ~ N(x0_weight * x0 + x_weight * x_a, variance), from each level a to the next, b.

    The variance is the network's where it learned one, else as `Ancestral.log_variance` says.
    Classifier guidance moves the mean by variance * classifier_score, after clipping (Dhariwal & Nichol
    2021, arXiv:2105.05233, Algorithm 1).

    Attributes:
      clip: confine the predicted x0 to [-1, 1].
    """

    clip: bool = True
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
          i: which step, a traced integer.
          x: [B, ...] at level i.
          noise: like x, unit variance.
          carry: nothing, returned as it came.
          state: of the guidance.

        Returns:
          (x at level i + 1, carry, state).
        """
        steps = grid.coefficients
        prediction, state = denoise(x, grid.levels[i], state)
        mean = steps.mean(i, clip(prediction.x0, self.clip), x)
        log_variance = steps.log_variance(i, prediction)
        if prediction.classifier_score is not None:
            mean += jnp.exp(log_variance) * prediction.classifier_score
        is_last = i == grid.num_steps - 1
        return jnp.where(is_last, mean, mean + jnp.exp(0.5 * log_variance) * noise), carry, state
