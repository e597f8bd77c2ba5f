"""Group normalization (Wu & He 2018, arXiv:1803.08494), with AdaGN and SiLU folded into it.

    y = (x - mean) / sqrt(variance + 1e-5) * gain + bias,        optionally silu(y) = y / (1 + e^-y)

with mean and variance of each sample over the positions and channels of a group. Statistics are
float32 whatever x is. Written for two passes over x forward (statistics; output) and two backward
(sums; gradient), with nothing kept between them but x and arrays of [B, C]: large tensors are never
reshaped to groups, and neither y nor its sigmoid is stored.

Statistics come from one pass by sums of d = x - x_0 and of its squares, with x_0 the sample's own
first position of each channel. That is at most sqrt(N - 1) standard deviations of the N positions
from their mean, and mostly a few, so little cancels, where sums of the squares of x may lose all
decimals. Channels are then joined to groups,

    mean = avg_c mean_c,    variance = avg_c (variance_c + (mean_c - mean)^2).

The derivative, with n = (x - mean) / sqrt(variance + 1e-5), h = dL/dy and averages over a group:

    dL/dx = (gain h - avg(gain h) - n avg(gain h n)) / sqrt(variance + 1e-5)
    dL/dgain = sum h n,    dL/dbias = sum h                         over the positions of a channel
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

GROUPS = 32  # where they divide the channels
EPSILON = 1e-5


class GroupNorm(nnx.Module):
    """Group normalization over 32 groups, with gain 1 and bias 0 at first.

    ADM's widths are multiples of 32. Of another width there are as many groups as divide both.
    """

    def __init__(self, channels, *, rngs):
        # The keys that Flax's own layer would take, so that the layers after it draw the same.
        rngs.params(), rngs.params()
        self.groups = math.gcd(GROUPS, channels)
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))

    @jax.named_scope("group_norm")
    def __call__(self, x, scale=None, shift=None, *, silu=False, dtype=jnp.float32):
        """Normalizes x.

        Args:
          x: [B, ..., C] of any float type.
          scale, shift: [B, C] of AdaGN (Dhariwal & Nichol 2021, arXiv:2105.05233, Eq. 3), or None:
            y (1 + scale) + shift is returned in the place of y.
          silu: whether SiLU follows.
          dtype: of what is returned.

        Returns:
          [B, ..., C] in `dtype`.
        """
        shape = (x.shape[0], x.shape[-1])
        gain, bias = (jnp.broadcast_to(p[...], shape) for p in (self.scale, self.bias))
        if scale is not None:
            scale, shift = scale.astype(jnp.float32), shift.astype(jnp.float32)
            gain, bias = gain * (1 + scale), bias * (1 + scale) + shift
        return normalized(x, gain, bias, self.groups, silu, dtype)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def normalized(x, gain, bias, groups, silu, dtype):
    """Group normalization as a function; the equation is at the head of this module.

    It can be differentiated in reverse mode alone.

    Args:
      x: [B, ..., C] of any float type.
      gain, bias: [B, C] float32.
      groups: their number, which divides C.
      silu: whether SiLU follows.
      dtype: of what is returned.

    Returns:
      [B, ..., C] in `dtype`.
    """
    return _forward(x, gain, bias, groups, silu, dtype)[0]


def _forward(x, gain, bias, groups, silu, dtype):
    mean, inverse = _statistics(x, groups)
    y = _affine(x, mean, gain * inverse, bias)
    y = y / (1 + jnp.exp(-y)) if silu else y
    return y.astype(dtype), (x, mean, inverse, gain, bias)


def _backward(groups, silu, dtype, kept, g):
    x, mean, inverse, gain, bias = kept
    axes = _positions(x)
    h = g.astype(jnp.float32)
    if silu:
        y = _affine(x, mean, gain * inverse, bias)
        # In e^y: of e^-y the compiler would keep the forward pass's values until here.
        power = jnp.exp(jnp.minimum(y, 80))
        rest = 1 / (1 + power)  # 1 - sigmoid(y)
        h = h * (power * rest) * (1 + y * rest)
    centred = x.astype(jnp.float32) - _along(x, mean)
    d_bias = h.sum(axes)
    d_gain = (h * centred).sum(axes) * inverse
    sums = gain * jnp.stack([d_bias, d_gain])
    average_h, average_hn = _channel_means(sums / math.prod(x.shape[1:-1]), groups)
    d_x = (
        h * _along(x, gain * inverse)
        - centred * _along(x, average_hn * inverse**2)
        - _along(x, average_h * inverse)
    )
    return d_x.astype(x.dtype), d_gain, d_bias


normalized.defvjp(_forward, _backward)


def _statistics(x, groups):
    """(mean, 1 / sqrt(variance + 1e-5)) of each channel's group: [B, C] float32."""
    axes, count = _positions(x), math.prod(x.shape[1:-1])
    first = x[(slice(None), *(0 for _ in axes))].astype(jnp.float32)
    shifted = x.astype(jnp.float32) - _along(x, first)
    offset = shifted.sum(axes) / count
    variance = jnp.square(shifted).sum(axes) / count - jnp.square(offset)
    mean = _channel_means(first + offset, groups)
    spread = variance + jnp.square(first + offset - mean)
    return mean, jax.lax.rsqrt(_channel_means(spread, groups) + EPSILON)


def _channel_means(values, groups):
    """[..., C] -> the mean over each channel's group, [..., C].

    By products with a matrix of 0 and 1: what the loops over x read is then a table, and XLA's CPU
    compiler keeps them vector loops.
    """
    size = values.shape[-1] // groups
    member = np.repeat(np.eye(groups, dtype=np.float32), size, axis=1)
    means = jnp.einsum("...c,gc->...g", values, member / size, precision="highest")
    return jnp.matmul(means, member, precision="highest")


def _affine(x, mean, factor, bias):
    """(x - mean) factor + bias of arrays [B, C], in float32."""
    return (x.astype(jnp.float32) - _along(x, mean)) * _along(x, factor) + _along(x, bias)


def _along(x, values):
    """[B, C] shaped to broadcast over x [B, ..., C]."""
    return values.reshape(x.shape[0], *(1,) * (x.ndim - 2), x.shape[-1])


def _positions(x):
    """The axes between the batch's and the channels'."""
    return tuple(range(1, x.ndim - 1))
