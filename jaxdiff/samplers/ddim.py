"""DDIM (Song et al. 2020, arXiv:2010.02502, equations 12 and 16), for levels in any scaling.

    eps      = (x_a - alpha_a x_0) / sigma_a
    variance = eta^2 (sigma_a^2 - (alpha_a sigma_b / alpha_b)^2) (sigma_b / sigma_a)^2
    x_b      = alpha_b x_0 + sqrt(sigma_b^2 - variance) eps + sqrt(variance) noise

from each level a to the next, b; x_0 is the prediction, clipped and then guided by the classifier.
"""

import dataclasses

import numpy as np

from jaxdiff.config import DDIM
from jaxdiff.samplers.grid import Grid, denoised, float32


@dataclasses.dataclass(frozen=True)
class DdimSampler:
    """DDIM, deterministic where eta is 0."""

    config: DDIM
    evaluations = 1  # of each network in a step

    @property
    def last(self):
        """The sampler of the last step."""
        return self

    def grid(self, levels):
        """Coefficients for `levels` [N + 1], float64 NumPy, noisiest first."""
        a_alpha, a_sigma = levels.alpha[:-1], levels.sigma[:-1]
        b_alpha, b_sigma = levels.alpha[1:], levels.sigma[1:]
        variance = (a_sigma**2 - (a_alpha / b_alpha * b_sigma) ** 2) * (b_sigma / a_sigma) ** 2
        std = self.config.eta * np.sqrt(variance)
        direction = np.sqrt(np.maximum(b_sigma**2 - std**2, 0))
        return Grid(float32(levels), float32({"std": std, "direction": direction}))

    def init(self, x):
        """What is carried from step to step: nothing."""
        del x
        return ()

    def step(self, denoise, grid, i, x, noise, carry, state):
        """One step from grid level i to i + 1; arguments and result as of `DdpmSampler.step`."""
        level, target = grid.levels[i], grid.levels[i + 1]
        prediction, state = denoise(x, level, state)
        x0 = denoised(prediction, level, self.config.clip)
        eps = (x - level.alpha * x0) / level.sigma
        x = target.alpha * x0 + grid.coefficients["direction"][i] * eps
        return x + grid.coefficients["std"][i] * noise, carry, state
