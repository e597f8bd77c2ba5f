"""The network of autoguidance's toy: Karras et al. 2024 (arXiv:2406.02507), appendix C.

    G = gain * mean(y^2),   y = the last layer's output

of five linear layers with SiLU between them and none after the last. The layers preserve magnitude
(Karras et al. 2023, arXiv:2312.02696, section 2.3): weights have rows of unit length, so that what
goes in with unit variance comes out with it.
"""

import dataclasses
from itertools import pairwise

import jax
import jax.numpy as jnp
from flax import nnx

SILU_SCALE = 0.596  # the root mean square of silu(z), z ~ N(0, 1)
EPSILON = 1e-4


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToySpec:
    """What the network is.

    Attributes:
      dimensions: of the points.
      channels: width of every layer.
      num_layers: how many layers follow the first one.
      initial_gain: the gain before the first step. Its sign tends to stay: with a negative gain the
        log density falls off away from the data, with a positive one it grows there without bound,
        and samples end as outliers. The paper's is 0, which leaves the sign to the first gradient.
      final_silu: put the last layer's output through SiLU too, which the paper does not.
    """

    dimensions: int = 2
    channels: int = 64
    num_layers: int = 4
    initial_gain: float = -0.1
    final_silu: bool = False


class Linear(nnx.Module):
    """A linear layer without bias whose rows (columns of the [in, out] kernel) have length 1."""

    def __init__(self, in_features, out_features, *, rngs):
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (in_features, out_features)))

    def __call__(self, x):
        """[B, in] -> [B, out]."""
        return x @ (normalized(self.kernel[...]) / x.shape[1] ** 0.5)


class Toy(nnx.Module):
    """A multilayer perceptron from points to one number each."""

    def __init__(self, spec: ToySpec, *, rngs: nnx.Rngs):
        widths = [spec.dimensions + 2] + [spec.channels] * (spec.num_layers + 1)
        self.layers = nnx.List([Linear(a, b, rngs=rngs) for a, b in pairwise(widths)])
        self.gain = nnx.Param(jnp.full((), spec.initial_gain))
        self.final_silu = spec.final_silu

    def embed(self, labels):
        """No labels are told apart: None."""
        del labels

    def __call__(self, x, time, embedding=None, *, low_res=None, drop_rate=0.0, drop_keys=None):
        """Runs the network.

        Args:
          x: [B, D] float32, scaled to unit variance.
          time: [B], ln(sigma) / 4.
          embedding, low_res, drop_rate, drop_keys: what other networks take; unused.

        Returns:
          [B] float32, G.
        """
        del embedding, low_res, drop_rate, drop_keys
        y = jnp.concatenate([x, time[:, None], jnp.ones_like(time)[:, None]], axis=1)
        *hidden, last = self.layers
        for layer in hidden:
            y = nnx.silu(layer(y)) / SILU_SCALE
        y = last(y)
        if self.final_silu:
            y = nnx.silu(y) / SILU_SCALE
        return self.gain[...] * (y**2).mean(1)


def normalized(kernel):
    """A kernel [in, out] with weights of root mean square 1 for every output."""
    size = jnp.sqrt((kernel**2).mean(0, keepdims=True))
    return kernel / (size + EPSILON)


def constrain(params):
    """Keeps weights at the magnitude that they start with, whatever the optimizer made of them.

    Only their direction counts, and so steps would turn them less and less as they grow.
    """
    return jax.tree.map(lambda leaf: normalized(leaf) if leaf.ndim == 2 else leaf, params)
