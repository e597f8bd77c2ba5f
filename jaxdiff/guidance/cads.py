r"""CADS: the condition annealed from noise to itself (Sadat et al. 2024, arXiv:2310.17347).

gamma(t)  = 1 for t <= tau1,  (tau2 - t) / (tau2 - tau1),  0 for t >= tau2      t = 1: noise
y^        = sqrt(gamma) y + s sqrt(1 - gamma) n
y_r       = (y^ - mean y^) / std y^ * std y + mean y
y~        = psi y_r + (1 - psi) y^
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np


def gamma(time, tau1, tau2):
    """How much of the condition is left at times [N] in [0, 1], 1 being noise: float64 [N].

    tau1 = tau2 is a step: 1 up to it, 0 after it.
    """
    time = np.asarray(time, np.float64)
    ramp = (tau2 - time) / (tau2 - tau1) if tau1 < tau2 else np.zeros_like(time)
    return np.where(time <= tau1, 1.0, np.clip(ramp, 0, 1))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cads:
    """How conditions are annealed; every network's own embedding alike, with noise of its own.

    Attributes:
      gammas: [N] float32, of each step.
      scale: s, of the noise; absolute, so it depends on how large the embeddings are.
      mix: psi in [0, 1], how much of the embedding's own mean and deviation is restored.
    """

    gammas: jax.Array
    scale: jax.Array
    mix: jax.Array

    def anneal(self, embedding, i, noise):
        """The embedding [B, E] as a network is told it at step i, with `noise` [B, E].

        Where gamma is 1 it is the embedding, bit for bit.
        """
        left = self.gammas[i]
        noised = jnp.sqrt(left) * embedding + self.scale * jnp.sqrt(1 - left) * noise
        deviation = noised.std(axis=-1, keepdims=True)
        # An embedding of one value has no deviation to restore.
        unit = (noised - noised.mean(axis=-1, keepdims=True)) / jnp.where(deviation, deviation, 1)
        restored = unit * embedding.std(axis=-1, keepdims=True)
        restored += embedding.mean(axis=-1, keepdims=True)
        return jnp.where(left == 1, embedding, self.mix * restored + (1 - self.mix) * noised)
