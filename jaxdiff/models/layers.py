"""The layers that ADM's networks are made of (Dhariwal & Nichol 2021, arXiv:2105.05233).

Parameters are always float32; `dtype` is what a layer computes and returns, except that norms
and softmax are computed in float32 whatever it is. Initial values are PyTorch's defaults, which
the paper's networks were trained from: uniform within 1/sqrt(fan_in), for weights and biases.
"""

import math
from statistics import NormalDist

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdiff.models.initializers import uniform

GROUPS = 32  # of a norm, where they divide its channels


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


def _initializers(fan_in, zero):
    if zero:
        return {"kernel_init": nnx.initializers.zeros, "bias_init": nnx.initializers.zeros}

    def draw(key, shape, dtype):
        del dtype
        return uniform(key, shape, 1 / math.sqrt(fan_in))

    return {"kernel_init": draw, "bias_init": draw}


def linear(in_features, out_features, *, dtype, rngs, zero=False):
    """A dense layer; `zero` starts it at zero."""
    return nnx.Linear(
        in_features, out_features, dtype=dtype, rngs=rngs, **_initializers(in_features, zero)
    )


def conv(in_channels, out_channels, size=3, *, stride=1, dtype, rngs, zero=False):
    """A convolution, `size` x `size` and odd, that keeps or divides height and width.

    `zero` starts it at zero.
    """
    # Not "SAME", which pads an even image on the far side alone where the stride is 2.
    margin = (size // 2, size // 2)
    return nnx.Conv(
        in_channels,
        out_channels,
        (size, size),
        strides=stride,
        padding=(margin, margin),
        dtype=dtype,
        rngs=rngs,
        **_initializers(in_channels * size * size, zero),
    )


def group_norm(channels, *, rngs):
    """GroupNorm over 32 groups, eps 1e-5, computed and returned in float32.

    ADM's widths are multiples of 32. Of another width there are as many groups as divide both.
    """
    return nnx.GroupNorm(
        channels,
        num_groups=math.gcd(GROUPS, channels),
        epsilon=1e-5,
        use_fast_variance=False,
        dtype=jnp.float32,
        rngs=rngs,
    )


def upsample(x):
    """Nearest-neighbour doubling: [B, H, W, C] -> [B, 2H, 2W, C]."""
    return x.repeat(2, axis=1).repeat(2, axis=2)


def downsample(x):
    """2 x 2 average: [B, H, W, C] -> [B, H/2, W/2, C]."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean((2, 4))


def resized(x, height, width):
    """Bilinear, with half-pixel centres: [B, h, w, C] -> [B, height, width, C].

    Where it becomes smaller, the filter is as wide as the stride, so that nothing aliases.
    """
    return jax.image.resize(x, (x.shape[0], height, width, x.shape[3]), "bilinear")


def drop(x, rate, keys):
    """Zeroes a share `rate` of each sample and scales up the rest.

    Masks come from one key a sample, so that they do not depend on the batch a sample is in.

    Args:
      x: [B, ...].
      rate: in [0, 1), a Python number; 0 returns x itself.
      keys: [B] random keys.
    """
    if not rate:
        return x
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[1:]))(keys)
    return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)
