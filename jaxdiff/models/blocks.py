"""Residual and attention blocks of ADM (Dhariwal & Nichol 2021, arXiv:2105.05233, section 3)."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdiff.models.attention import attend
from jaxdiff.models.layers import Conv, Linear, downsample, drop, upsample
from jaxdiff.models.normalization import GroupNorm

RESAMPLE = {"up": upsample, "down": downsample, None: lambda x: x}


class ResBlock(nnx.Module):
    """A residual block that an embedding modulates.

    With AdaGN (`adaptive_norm`) the embedding scales and shifts the second norm's output; without,
    it is added before that norm. Resampling, if any, is BigGAN's: between the first activation and
    convolution, and on the skip path, with nothing learned.
    """

    def __init__(self, config, in_channels, out_channels, *, resample=None, index, dtype, rngs):
        """`index` numbers the block within its network, so that dropout masks differ."""
        self.resample, self.index, self.dtype = resample, index, dtype
        self.adaptive_norm, self.rescale = config.adaptive_norm, config.rescale_residuals
        common = {"dtype": dtype, "rngs": rngs}
        self.norm1 = GroupNorm(in_channels, rngs=rngs)
        self.conv1 = Conv(in_channels, out_channels, **common)
        self.modulation = Linear(
            config.emb_width, out_channels * (2 if config.adaptive_norm else 1), **common
        )
        self.norm2 = GroupNorm(out_channels, rngs=rngs)
        self.conv2 = Conv(out_channels, out_channels, **common, zero=True)
        self.skip = (
            Conv(in_channels, out_channels, 1, **common) if in_channels != out_channels else None
        )

    def __call__(self, x, emb, dropout=None):
        """x: [B, H, W, C_in]; emb: [B, E]; a Dropout or None. Returns [B, H', W', C_out]."""
        resample = RESAMPLE[self.resample]
        activated = {"silu": True, "dtype": self.dtype}
        h = self.conv1(resample(self.norm1(x, **activated)))
        modulation = self.modulation(nnx.silu(emb))
        if self.adaptive_norm:
            h = self.norm2(h, *jnp.split(modulation, 2, axis=-1), **activated)
        else:
            h = self.norm2(h + modulation[:, None, None], **activated)
        if dropout is not None:
            keys = jax.vmap(jax.random.fold_in, (0, None))(dropout.keys, self.index)
            h = drop(h, dropout.rate, keys)
        x = resample(x)
        return add(x if self.skip is None else self.skip(x), self.conv2(h), self.rescale)


class Attention(nnx.Module):
    """Multi-head self-attention over the positions of an image, added to it.

    The projection to queries, keys and values is laid out [3, heads, width of a head].
    """

    def __init__(self, config, channels, num_heads, *, attend=attend, dtype, rngs):
        self.attend = attend
        self.num_heads, self.dtype, self.rescale = num_heads, dtype, config.rescale_residuals
        self.norm = GroupNorm(channels, rngs=rngs)
        self.qkv = Linear(channels, 3 * channels, dtype=dtype, rngs=rngs)
        self.out = Linear(channels, channels, dtype=dtype, rngs=rngs, zero=True)

    def __call__(self, x):
        """x: [B, H, W, C]. Returns the same shape."""
        batch, height, width, channels = x.shape
        h = self.norm(x, dtype=self.dtype).reshape(batch, height * width, channels)
        h = self.qkv(h)
        with jax.named_scope("attention"):
            h = self.attend(h, self.num_heads)
        return add(x, self.out(h.reshape(batch, height, width, channels)), self.rescale)


class Block(nnx.Module):
    """A residual block, and attention after it where asked for."""

    def __init__(self, res, attention=None):
        self.res, self.attention = res, attention

    def __call__(self, x, emb, dropout=None):
        """x: [B, H, W, C_in]; emb: [B, E]; a Dropout or None. Returns [B, H', W', C_out]."""
        x = self.res(x, emb, dropout)
        return x if self.attention is None else self.attention(x)


class Resample(nnx.Module):
    """DDPM's change of resolution: a layer of its own, with a convolution if `learned`.

    Down is the convolution, of stride 2, or the 2 x 2 average; up is nearest-neighbour doubling,
    and then the convolution.
    """

    def __init__(self, channels, direction, learned, *, dtype, rngs):
        self.direction = direction
        stride = 2 if direction == "down" else 1
        self.conv = (
            Conv(channels, channels, stride=stride, dtype=dtype, rngs=rngs) if learned else None
        )

    def __call__(self, x, *_):
        """x: [B, H, W, C]. Returns [B, H', W', C]; takes the arguments of a Block."""
        if self.conv is None:
            return RESAMPLE[self.direction](x)
        return self.conv(upsample(x) if self.direction == "up" else x)


def add(x, h, rescale):
    """A residual connection, divided by sqrt 2 where asked for, which keeps the variance."""
    return (x + h) / math.sqrt(2) if rescale else x + h
