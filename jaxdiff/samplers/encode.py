"""DDIM backwards: from an image to the noise that leads to it (arXiv:2010.02502, section 4.3)."""

import dataclasses

import jax
import numpy as np

from jaxdiff.diffusion.denoiser import Level
from jaxdiff.samplers.ddim import Ddim
from jaxdiff.samplers.grid import Grid, float32


@dataclasses.dataclass(frozen=True, kw_only=True)
class DdimEncode:
    """The steps of Ddim with eta 0, up the levels.

    An image is taken to be at the lowest noisy level already. The last step goes to alpha 0,
    where all that is left is the predicted noise: unit noise to start sampling from.

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
        """Coefficients for `levels` [N + 1] as a sampler goes down them, float64 NumPy."""
        noisy = jax.tree.map(lambda a: a[-2::-1], levels)
        up = Level(np.append(noisy.alpha, 0.0), np.append(noisy.sigma, 1.0))
        return Grid(
            float32(up), float32({"std": np.zeros_like(noisy.sigma), "direction": up.sigma[1:]})
        )

    def init(self, x):
        """What is carried from step to step: nothing."""
        del x
        return ()

    def step(self, denoise, grid, i, x, noise, carry, state):
        """One step from grid level i to i + 1; arguments and result as in `Ddpm.step`."""
        return Ddim(clip=self.clip).step(denoise, grid, i, x, noise, carry, state)
