"""The network of autoguidance's toy: Karras et al. 2024 (arXiv:2406.02507), appendix C.

    G = gain * mean(y^2),   y = the last layer's output

of five linear layers with SiLU between them and none after the last. The layers preserve magnitude
(Karras et al. 2023, arXiv:2312.02696, section 2.3): weights have rows of unit length, so inputs of
unit variance become outputs of unit variance.
"""

from itertools import pairwise

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdiff.models.condition import Condition

SILU_SCALE = 0.596  # the root mean square of silu(z), z ~ N(0, 1)
EPSILON = 1e-4


def normalized(kernel):
    """A kernel [in, out] with weights of root mean square 1 for every output."""
    size = jnp.sqrt((kernel**2).mean(0, keepdims=True))
    return kernel / (size + EPSILON)


def constrain(params):
    """Parameters with weights of the magnitude that they start with, whatever the optimizer did.

    Only their direction counts, and steps would turn them less and less as they grow.
    """
    return jax.tree.map(lambda leaf: normalized(leaf) if leaf.ndim == 2 else leaf, params)


class Linear(nnx.Module):
    """A linear layer without bias whose rows (columns of the [in, out] kernel) have length 1."""

    def __init__(self, in_features, out_features, *, rngs):
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (in_features, out_features)))

    def __call__(self, x):
        """[B, in] -> [B, out]."""
        return x @ (normalized(self.kernel[...]) / x.shape[1] ** 0.5)


class Toy(nnx.Module):
    """A multilayer perceptron from points to one number each.

    Arguments:
      config: a ToyNetwork.
      signature: whose shape is (D,).
    """

    def __init__(self, config, signature, *, rngs: nnx.Rngs):
        widths = [*(d + 2 for d in signature.shape), *[config.channels] * (config.num_layers + 1)]
        self.layers = nnx.List([Linear(a, b, rngs=rngs) for a, b in pairwise(widths)])
        self.gain = nnx.Param(jnp.full((), config.initial_gain))
        self.final_silu = config.final_silu

    def embed(self, cond):
        """There is nothing to embed."""
        del cond
        return Condition()

    null = embed
    constrain = staticmethod(constrain)

    def __call__(self, x, time, condition=None, dropout=None):
        """Runs the network.

        Args:
          x: [B, D] float32, scaled to unit variance.
          time: [B], ln(sigma) / 4.
          condition, dropout: what other networks take; unused.

        Returns:
          [B] float32, G.
        """
        del condition, dropout
        y = jnp.concatenate([x, time[:, None], jnp.ones_like(time)[:, None]], axis=1)
        *hidden, last = self.layers
        for layer in hidden:
            y = nnx.silu(layer(y)) / SILU_SCALE
        y = last(y)
        if self.final_silu:
            y = nnx.silu(y) / SILU_SCALE
        return self.gain[...] * (y**2).mean(1)


class Points:
    """The codec of points: they are what the network takes."""

    def encode(self, images, key=None):
        """Points [B, D] float32 as they are."""
        del key
        return images

    def decode(self, x):
        """Points [B, D] float32 as they are."""
        return x
