r"""CADS: the condition annealed from noise to itself (Sadat et al. 2024, arXiv:2310.17347).

gamma(t)  = 1 for t <= tau1,  (tau2 - t) / (tau2 - tau1),  0 for t >= tau2      t = 1: noise
y^        = sqrt(gamma) y + s sqrt(1 - gamma) n
y_r       = (y^ - mean y^) / std y^ * std y + mean y
y~        = psi y_r + (1 - psi) y^

for each embedding, image and sequence of tokens y of a Condition, with noise n of its own. Means
and deviations are of each sample, over all axes but the batch, and over tokens that are there.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.diffusion.randomness import derived, normal


def gamma(time, tau1, tau2):
    """The share of the condition that is left at times [N] in [0, 1], 1 being noise: float64 [N].

    tau1 = tau2 is a step: 1 up to it, 0 after it.
    """
    time = np.asarray(time, np.float64)
    ramp = (tau2 - time) / (tau2 - tau1) if tau1 < tau2 else np.zeros_like(time)
    return np.where(time <= tau1, 1.0, np.clip(ramp, 0, 1))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cads:
    """How Conditions are annealed over the steps; all traced.

    Attributes:
      gammas: [N] float32, of each step.
      scale: s, of the noise; absolute, so its effect depends on how large the embeddings are.
      mix: psi in [0, 1], how much of y's own mean and deviation is restored.
    """

    gammas: jax.Array
    scale: jax.Array
    mix: jax.Array

    @classmethod
    def of(cls, spec, time):
        """Of settings, a jaxdiff.config.CADS, for steps at times [N]."""
        gammas = gamma(time, spec.tau1, spec.tau2)
        return cls(*map(np.float32, (gammas, spec.scale, spec.mix)))

    def anneal(self, condition, i, keys):
        """The Condition at step i; where gamma is 1 it is the one given, bit for bit.

        Args:
          condition: a Condition.
          i: the step, an integer that may be traced.
          keys: [B], for the noise of this step.
        """
        anneal, noise = partial(self._anneal, i), noise_like(condition, keys)
        return dataclasses.replace(
            condition,
            vector=jax.tree.map(anneal, condition.vector, noise.vector),
            image=jax.tree.map(anneal, condition.image, noise.image),
            tokens=jax.tree.map(
                partial(anneal, mask=condition.mask), condition.tokens, noise.tokens
            ),
        )

    def _anneal(self, i, y, noise, mask=None):
        left, there = self.gammas[i], None if mask is None else mask[..., None]
        axes = tuple(range(1, y.ndim))
        over = {"axis": axes, "keepdims": True, "where": there}
        noised = jnp.sqrt(left) * y + self.scale * jnp.sqrt(1 - left) * noise
        deviation = noised.std(**over)
        # An embedding of one value has no deviation to restore.
        unit = (noised - noised.mean(**over)) / jnp.where(deviation, deviation, 1)
        restored = unit * y.std(**over) + y.mean(**over)
        annealed = jnp.where(left == 1, y, self.mix * restored + (1 - self.mix) * noised)
        return annealed if there is None else jnp.where(there, annealed, y)


def noise_like(condition, keys):
    """A Condition of unit noise for each array but the mask, drawn from keys [B]."""
    leaves, tree = jax.tree.flatten(dataclasses.replace(condition, mask=None))
    own = [derived(keys, n) if n else keys for n in range(len(leaves))]
    return tree.unflatten([normal(k, leaf.shape[1:]) for k, leaf in zip(own, leaves, strict=True)])
