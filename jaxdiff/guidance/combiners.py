"""Combiners U of the difference between the main network and a reference, and the rescaling R.

All are defined on the predicted clean sample x0. Statistics are those of each sample.
"""

import dataclasses

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Linear:
    """U(d) = d: classifier-free guidance and autoguidance as they were published."""

    def init(self, shape):
        """State that is carried from step to step: none."""
        del shape
        return ()

    def combine(self, difference, main, state):
        """Returns what is added, for a weight w times w - 1, and the next state."""
        del main
        return difference, state


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Apg:
    """Adaptive projected guidance (Sadat et al. 2024, arXiv:2410.02416, Algorithm 1).

        m = d + momentum * m;   U = perpendicular + eta * parallel   of m, shrunk to `norm`

    Parallel means along the main network's prediction. Apg(1, 0, inf) is Linear.

    Attributes:
      eta: how much of the part along the prediction is kept; 0 in the paper.
      momentum: negative in the paper, -.5.
      norm: largest length of the difference, which depends on the image size; inf: any.
    """

    eta: jax.Array
    momentum: jax.Array
    norm: jax.Array

    def init(self, shape):
        """State that is carried from step to step: the running difference, before shrinking."""
        return jnp.zeros(shape)

    def combine(self, difference, main, state):
        """Returns what is added, for a weight w times w - 1, and the next state."""
        state = difference + self.momentum * state
        length = _norm(state)
        shrunk = state * jnp.minimum(1, self.norm / jnp.where(length, length, 1))
        along = main / jnp.maximum(_norm(main), 1e-12)
        parallel = _sum(shrunk * along) * along
        return shrunk - parallel + self.eta * parallel, state


def rescale(guided, main, amount):
    """Phi * D * std(D_main) / std(D) + (1 - phi) * D (Lin et al. 2023, arXiv:2305.08891, eq. 16).

    Args:
      guided, main: [B, ...], D and D_main.
      amount: phi in [0, 1].
    """
    axes = tuple(range(1, guided.ndim))
    deviation = guided.std(axis=axes, keepdims=True)
    restored = guided * main.std(axis=axes, keepdims=True) / jnp.where(deviation, deviation, 1)
    return amount * restored + (1 - amount) * guided


def _sum(x):
    return x.sum(axis=tuple(range(1, x.ndim)), keepdims=True)


def _norm(x):
    return jnp.sqrt(_sum(x**2))
