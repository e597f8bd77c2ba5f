"""The grid of a sampler: its noise levels, and every coefficient that its steps need."""

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
      levels: [N + 1] float32, from step to step: noisiest first and the last one clean
        (sigma 0), or the other way round to encode.
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
    """Confines a clean sample to [-1, 1], if the sampler does that."""
    return jnp.clip(x0, -1, 1) if enabled else x0


def denoised(prediction, level, clipped):
    """The clean sample that a deterministic step moves towards, shaped like the prediction's x0.

    A classifier score g moves it by sigma^2 / alpha g, which is eps - sigma g (Dhariwal & Nichol
    2021, arXiv:2105.05233, Algorithm 2); after clipping, as there.
    """
    x0 = clip(prediction.x0, clipped)
    if prediction.classifier_score is None:
        return x0
    return x0 + level.sigma**2 / level.alpha * prediction.classifier_score
