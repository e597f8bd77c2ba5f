"""The layers that ADM's networks are made of (Dhariwal & Nichol 2021, arXiv:2105.05233).

Parameters are always float32; `dtype` is what a layer computes and returns, except that norms
and softmax are computed in float32 whatever it is. Initial values are PyTorch's defaults, which
the paper's networks were trained from: uniform within 1/sqrt(fan_in), for weights and biases.
"""

import math
from functools import partial
from statistics import NormalDist

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.extend.random import threefry2x32_p

from jaxdiff.models.initializers import uniform

DRAWS = 2**16  # values of the random numbers that dropout compares with


def timestep_embedding(t, width):
    """Sinusoidal embedding of noise levels (ADM, section 2; Vaswani et al. 2017).

    Args:
      t: [B], any real number type; fractional values are allowed.
      width: number of features; an odd one ends in a zero.

    Returns:
      [B, width] float32: cosines first, then sines, at frequencies from 1 down to 1/10000.
    """
    half = width // 2
    frequencies = jnp.exp(-math.log(10_000) * jnp.arange(half, dtype=jnp.float32) / half)
    angles = t.astype(jnp.float32)[:, None] * frequencies
    features = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
    return jnp.pad(features, ((0, 0), (0, width % 2)))


def fourier_features(x, width):
    """Smooth features of a number, of unit variance (Karras et al. 2023, arXiv:2312.02696).

    The paper's frequencies are drawn from N(0, (2 pi)^2); these are that distribution's quantiles,
    so that there is nothing to keep.

    Args:
      x: [B] float32.
      width: number of features, even.

    Returns:
      [B, width] float32: sqrt 2 times cosines first, then sines.
    """
    half = width // 2
    quantiles = [NormalDist(0, 2 * math.pi).inv_cdf(0.5 + (i + 0.5) / width) for i in range(half)]
    angles = x[:, None] * jnp.asarray(quantiles, jnp.float32)
    return math.sqrt(2) * jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def _initializer(fan_in, zero):
    """(key, shape) -> initial values, float32."""

    def draw(key, shape):
        return jnp.zeros(shape) if zero else uniform(key, shape, 1 / math.sqrt(fan_in))

    return draw


class Linear(nnx.Module):
    """A dense layer y = x W + b: of x [..., I], [..., O] in `dtype`; `zero` starts it at zero.

    x is multiplied as one matrix of rows: on CPUs the gradient of W is then a fast product.
    """

    def __init__(self, in_features, out_features, *, dtype, rngs, zero=False):
        draw = _initializer(in_features, zero)
        self.dtype = dtype
        self.kernel = nnx.Param(draw(rngs.params(), (in_features, out_features)))
        self.bias = nnx.Param(draw(rngs.params(), (out_features,)))

    @jax.named_scope("linear")
    def __call__(self, x):
        """x: [..., I]. Returns [..., O]."""
        return with_bias(rows_product(x, self.kernel[...], self.dtype), self.bias[...])


class Conv(nnx.Module):
    """A convolution, `size` x `size` and odd, that keeps or divides height and width.

    Of x [B, H, W, I], [B, H', W', O] in `dtype`; `zero` starts it at zero.
    """

    def __init__(self, in_channels, out_channels, size=3, *, stride=1, dtype, rngs, zero=False):
        draw = _initializer(in_channels * size * size, zero)
        self.size, self.stride, self.dtype = size, stride, dtype
        self.kernel = nnx.Param(draw(rngs.params(), (size, size, in_channels, out_channels)))
        self.bias = nnx.Param(draw(rngs.params(), (out_channels,)))

    @jax.named_scope("conv")
    def __call__(self, x):
        """x: [B, H, W, I]. Returns [B, H', W', O]."""
        kernel, margin = self.kernel[...], self.size // 2
        if self.size == self.stride == 1:
            return with_bias(rows_product(x, kernel[0, 0], self.dtype), self.bias[...])
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            (self.stride, self.stride),
            # Not "SAME", which pads an even image on the far side alone where the stride is 2.
            [(margin, margin)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return with_bias(y, self.bias[...])


def rows_product(x, kernel, dtype):
    """X [..., I] times kernel [I, O], in `dtype`."""
    rows = x.astype(dtype).reshape(-1, x.shape[-1])
    return (rows @ kernel.astype(dtype)).reshape(*x.shape[:-1], -1)


def with_bias(y, bias):
    """Y + bias in y's dtype, added in float32, so that the gradient of bias is summed in it."""
    return (y.astype(jnp.float32) + bias).astype(y.dtype)


def upsample(x):
    """Nearest-neighbour doubling: [B, H, W, C] -> [B, 2H, 2W, C]."""
    batch, height, width, channels = x.shape
    pixels = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, 2, width, 2, channels))
    return pixels.reshape(batch, 2 * height, 2 * width, channels)


def downsample(x):
    """2 x 2 average: [B, H, W, C] -> [B, H/2, W/2, C]."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean((2, 4))


def resized(x, height, width):
    """Bilinear, with half-pixel centres: [B, h, w, C] -> [B, height, width, C].

    Where it becomes smaller, the filter is as wide as the stride, so that nothing aliases.
    """
    return jax.image.resize(x, (x.shape[0], height, width, x.shape[3]), "bilinear")


@jax.named_scope("dropout")
def drop(x, rate, keys):
    """Zeroes a share `rate` of each sample and scales up the rest, by 1 / (the share kept).

    Masks come from one key a sample, so that they do not depend on the batch a sample is in.

    Args:
      x: [B, ...].
      rate: in [0, 1), a Python number, rounded to a multiple of 2^-16; 0 returns x itself.
      keys: [B] random keys.
    """
    if not rate:
        return x
    kept = max(1, round((1 - rate) * DRAWS))
    keep = jax.vmap(partial(_keep, kept=kept, shape=x.shape[1:]))(keys)
    return jnp.where(keep, x * (DRAWS / kept), 0).astype(x.dtype)


def _keep(key, kept, shape):
    """A mask [shape] that is true with probability kept / DRAWS.

    jax.random hashes a counter for each number, whatever its size. Here a hash, of 64 bits, serves
    four of 16: those of the quarters of the first axis.
    """
    quarter = (-(-shape[0] // 4), *shape[1:])
    strides = (math.prod(quarter[axis + 1 :]) for axis in range(len(quarter)))
    counter = sum(
        jax.lax.broadcasted_iota(jnp.uint32, quarter, axis) * np.uint32(stride)
        for axis, stride in enumerate(strides)
    )
    first, second, *_ = jax.random.key_data(key)
    words = threefry2x32_p.bind(first, second, jnp.zeros_like(counter), counter)
    draws = [half for word in words for half in (word & (DRAWS - 1), word >> 16)]
    # Compared first: what may be written to memory is a byte for each element, not four.
    return jnp.concatenate([draw < kept for draw in draws])[: shape[0]]
