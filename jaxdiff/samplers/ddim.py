"""DDIM (Song et al. 2020, arXiv:2010.02502, equations 12 and 16), for levels in any scaling."""

import dataclasses

import numpy as np

from jaxdiff.samplers.grid import Grid, denoised, float32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ddim:
    """Moves along the predicted noise, which is re-derived from the clipped, then guided x0.

    Attributes:
      eta: 0 is deterministic; 1 adds as much noise as ancestral sampling with small variance.
      clip: confine the predicted x0 to [-1, 1].
    """

    eta: float = 0.0
    clip: bool = True
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
        std = self.eta * np.sqrt(variance)
        direction = np.sqrt(np.maximum(b_sigma**2 - std**2, 0))
        return Grid(float32(levels), float32({"std": std, "direction": direction}))

    def init(self, x):
        """What is carried from step to step: nothing."""
        del x
        return ()

    def step(self, denoise, grid, i, x, noise, carry, state):
        """One step from grid level i to i + 1; arguments and result as in `Ddpm.step`."""
        level, target = grid.levels[i], grid.levels[i + 1]
        prediction, state = denoise(x, level, state)
        x0 = denoised(prediction, level, self.clip)
        eps = (x - level.alpha * x0) / level.sigma
        x = target.alpha * x0 + grid.coefficients["direction"][i] * eps
        return x + grid.coefficients["std"][i] * noise, carry, state
