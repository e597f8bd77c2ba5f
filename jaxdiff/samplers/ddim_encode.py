"""DDIM backwards: from an image to the noise that leads to it (arXiv:2010.02502, section 4.3)."""

import dataclasses

import jax
import numpy as np

from jaxdiff.diffusion.denoiser import Level
from jaxdiff.samplers.ddim import DdimSampler
from jaxdiff.samplers.grid import Grid, float32


@dataclasses.dataclass(frozen=True)
class DdimEncoder(DdimSampler):
    """The steps of DDIM with eta 0, up the levels.

    An image is taken to be at the lowest noisy level already. The last step goes to alpha 0,
    where all that is left is the predicted noise: unit noise to start sampling from.
    """

    def grid(self, levels):
        """Coefficients for `levels` [N + 1] as a sampler goes down them, float64 NumPy."""
        noisy = jax.tree.map(lambda a: a[-2::-1], levels)
        up = Level(np.append(noisy.alpha, 0.0), np.append(noisy.sigma, 1.0))
        return Grid(
            float32(up), float32({"std": np.zeros_like(noisy.sigma), "direction": up.sigma[1:]})
        )
