"""DPM-Solver++(2M) (Lu et al. 2022, arXiv:2211.01095, Algorithm 2), in any scaling.

With lambda = -log s, h_i = lambda_{i+1} - lambda_i and r = h_{i-1} / h_i:

    D       = D_i + (D_i - D_{i-1}) / (2 r)
    x_{i+1} = (s_{i+1} / s_i) x_i + (1 - s_{i+1} / s_i) D

The first step, and the last where it goes to s = 0, take D = D_i.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from jaxdiff.config import DPMpp
from jaxdiff.diffusion.denoiser import Level
from jaxdiff.samplers.grid import Grid, denoised, float32


@dataclasses.dataclass(frozen=True)
class DpmppSampler:
    """Second-order steps in lambda, from the predictions of this step and the one before."""

    config: DPMpp
    evaluations = 1  # of each network in a step

    @property
    def last(self):
        """The sampler of the last step."""
        return self

    def grid(self, levels):
        """Coefficients for `levels` [N + 1], float64 NumPy, noisiest first."""
        ratio = levels.ratio
        shrink = ratio[1:] / ratio[:-1]
        h = -np.log(np.where(shrink, shrink, 1))
        extrapolate = np.zeros_like(h)
        extrapolate[1:] = h[1:] / (2 * h[:-1])
        return Grid(float32(levels), float32({"shrink": shrink, "extrapolate": extrapolate}))

    def init(self, x):
        """What is carried from step to step: the last prediction; the first step ignores it."""
        return jnp.zeros_like(x)

    def step(self, denoise, grid, i, x, noise, carry, state):
        """One step from grid level i to i + 1; arguments and result as of `DdpmSampler.step`."""
        del noise
        here, shrink = grid.levels[i], grid.coefficients["shrink"][i]
        level = Level(jnp.ones_like(here.ratio), here.ratio)
        x = x / here.alpha
        prediction, state = denoise(x, level, state)
        d = denoised(prediction, level, self.config.clip)
        extrapolated = d + grid.coefficients["extrapolate"][i] * (d - carry)
        x = shrink * x + (1 - shrink) * extrapolated
        return grid.levels[i + 1].alpha * x, d, state
