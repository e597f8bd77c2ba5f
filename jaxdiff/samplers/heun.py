"""Heun's method with churn (Karras et al. 2022, arXiv:2206.00364, Algorithm 2), in any scaling."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np

from jaxdiff.diffusion.denoiser import Level
from jaxdiff.samplers.grid import Grid, denoised, float32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Heun:
    """Second-order steps along dx/ds = (x - D(x; s)) / s, from a noise level raised by churn.

    Attributes:
      churn: S_churn, how much noise is put back over all steps; 0 is deterministic.
      churn_min, churn_max: S_tmin and S_tmax, the levels sigma/alpha between which it is.
      churn_noise: S_noise, standard deviation of that noise.
      clip: confine the predicted x0 to [-1, 1].
      corrected: whether a step is corrected at its end; False is Euler's method.
    """

    churn: float = 0.0
    churn_min: float = 0.0
    churn_max: float = math.inf
    churn_noise: float = 1.0
    clip: bool = True
    corrected: bool = True

    @property
    def evaluations(self):
        """Of each network in a step."""
        return 2 if self.corrected else 1

    @property
    def last(self):
        """The sampler of the last step, whose end has no noise: Euler's."""
        return dataclasses.replace(self, corrected=False)

    def grid(self, levels):
        """Coefficients for `levels` [N + 1], float64 NumPy, noisiest first."""
        ratio = levels.ratio[:-1]
        amount = min(self.churn / len(ratio), math.sqrt(2) - 1)
        churned = (self.churn_min <= ratio) & (ratio <= self.churn_max)
        raised = ratio * (1 + amount * churned)
        std = self.churn_noise * np.sqrt(raised**2 - ratio**2)
        return Grid(float32(levels), float32({"raised": raised, "std": std}))

    def init(self, x):
        """What is carried from step to step: nothing."""
        del x
        return ()

    def step(self, denoise, grid, i, x, noise, carry, state):
        """One step from grid level i to i + 1; arguments and result as in `Ddpm.step`.

        The corrector sees the guidance's state as it was before the step.
        """
        s_hat, s_next = grid.coefficients["raised"][i], grid.levels[i + 1].ratio
        x_hat = x / grid.levels[i].alpha + grid.coefficients["std"][i] * noise
        d, next_state = self._slope(denoise, x_hat, s_hat, state)
        x = x_hat + (s_next - s_hat) * d
        if self.corrected:
            d_next, _ = self._slope(denoise, x, s_next, state)
            x = x_hat + (s_next - s_hat) * (d + d_next) / 2
        return grid.levels[i + 1].alpha * x, carry, next_state

    def _slope(self, denoise, x, s, state):
        level = Level(jnp.ones_like(s), s)
        prediction, state = denoise(x, level, state)
        return (x - denoised(prediction, level, self.clip)) / s, state
