"""The steps of a sampler, with every coefficient that they need."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.diffusion.denoiser import Level


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Grid:
    """N steps through N + 1 noise levels.

    Attributes:
      levels: [N + 1] float32, noisiest first; the last one is clean (sigma 0).
      coefficients: the sampler's own, [N] float32 each, computed in float64.
    """

    levels: Level
    coefficients: Any

    @property
    def num_steps(self):
        """N."""
        return self.levels.sigma.shape[0] - 1


def float32(tree):
    """NumPy float64 leaves as float32 JAX arrays."""
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), tree)


def clip(x0, enabled):
    """Confines a clean image to [-1, 1], if the run does that."""
    return jnp.clip(x0, -1, 1) if enabled else x0
