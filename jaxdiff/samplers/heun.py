"""Heun's method with churn (Karras et al. 2022, arXiv:2206.00364, Algorithm 2), in any scaling.

s^   = s_i + gamma_i s_i                  gamma_i = min(S_churn / N, sqrt 2 - 1) in [S_tmin, S_tmax]
x^   = x_i + S_noise sqrt(s^^2 - s_i^2) noise
d    = (x^ - D(x^; s^)) / s^
x    = x^ + (s_{i+1} - s^) d
d'   = (x - D(x; s_{i+1})) / s_{i+1}
x    = x^ + (s_{i+1} - s^) (d + d') / 2   but at the last step, where s_{i+1} is 0
"""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np

from jaxdiff.config import Heun
from jaxdiff.diffusion.denoiser import Level
from jaxdiff.samplers.grid import Grid, denoised, float32


@dataclasses.dataclass(frozen=True)
class HeunSampler:
    """Second-order steps along dx/ds = (x - D(x; s)) / s, from a noise level raised by churn.

    Attributes:
      config: its settings.
      corrected: whether a step is corrected at its end; False is Euler's method.
    """

    config: Heun
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
        ratio, config = levels.ratio[:-1], self.config
        amount = min(config.churn / len(ratio), math.sqrt(2) - 1)
        churned = (config.churn_min <= ratio) & (ratio <= config.churn_max)
        raised = ratio * (1 + amount * churned)
        std = config.churn_noise * np.sqrt(raised**2 - ratio**2)
        return Grid(float32(levels), float32({"raised": raised, "std": std}))

    def init(self, x):
        """What is carried from step to step: nothing."""
        del x
        return ()

    def step(self, denoise, grid, i, x, noise, carry, state):
        """One step from grid level i to i + 1; arguments and result as of `DdpmSampler.step`.

        The corrector has the guidance's state from before the step.
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
        return (x - denoised(prediction, level, self.config.clip)) / s, state
