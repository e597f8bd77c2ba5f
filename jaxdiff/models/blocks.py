"""Residual and attention blocks of ADM (Dhariwal & Nichol 2021, arXiv:2105.05233, section 3)."""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdiff.models.layers import conv, downsample, dropout, group_norm, linear, upsample

RESAMPLE = {"up": upsample, "down": downsample, None: lambda x: x}


class ResBlock(nnx.Module):
    """A BigGAN residual block with adaptive group normalisation (AdaGN).

    The embedding scales and shifts the second norm's output. Resampling, if any, happens between
    the first activation and convolution, and on the skip path, with nothing learned.
    """

    def __init__(self, in_channels, out_channels, emb_width, *, resample=None, index, dtype, rngs):
        """`index` numbers the block within its network, so that dropout masks differ."""
        self.resample, self.index, self.dtype = resample, index, dtype
        self.norm1 = group_norm(in_channels, rngs=rngs)
        self.conv1 = conv(in_channels, out_channels, dtype=dtype, rngs=rngs)
        self.modulation = linear(emb_width, 2 * out_channels, dtype=dtype, rngs=rngs)
        self.norm2 = group_norm(out_channels, rngs=rngs)
        self.conv2 = conv(out_channels, out_channels, dtype=dtype, rngs=rngs, zero=True)
        self.skip = (
            conv(in_channels, out_channels, 1, dtype=dtype, rngs=rngs)
            if in_channels != out_channels
            else None
        )

    def __call__(self, x, emb, drop_rate, drop_keys):
        """x: [B, H, W, C_in]; emb: [B, E]. Returns [B, H', W', C_out]."""
        resample = RESAMPLE[self.resample]
        h = nnx.silu(self.norm1(x)).astype(self.dtype)
        h = self.conv1(resample(h))
        scale, shift = jnp.split(self.modulation(nnx.silu(emb))[:, None, None], 2, axis=-1)
        h = nnx.silu(self.norm2(h) * (1 + scale) + shift).astype(self.dtype)
        if drop_rate:
            keys = jax.vmap(jax.random.fold_in, (0, None))(drop_keys, self.index)
            h = dropout(h, drop_rate, keys)
        x = resample(x)
        return (x if self.skip is None else self.skip(x)) + self.conv2(h)


class Attention(nnx.Module):
    """Multi-head self-attention over the positions of an image, added to it.

    The projection to queries, keys and values is laid out [3, heads, width of a head].
    """

    def __init__(self, channels, num_heads, *, dtype, rngs):
        self.num_heads, self.dtype = num_heads, dtype
        self.norm = group_norm(channels, rngs=rngs)
        self.qkv = linear(channels, 3 * channels, dtype=dtype, rngs=rngs)
        self.out = linear(channels, channels, dtype=dtype, rngs=rngs, zero=True)

    def __call__(self, x):
        """x: [B, H, W, C]. Returns the same shape."""
        batch, height, width, channels = x.shape
        h = self.norm(x).astype(self.dtype).reshape(batch, height * width, channels)
        qkv = self.qkv(h).reshape(batch, height * width, 3, self.num_heads, -1)
        # Scales the logits by 1/sqrt(width) and takes the softmax in float32.
        h = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])
        return x + self.out(h.reshape(batch, height, width, channels))


class Block(nnx.Module):
    """A residual block, and attention after it where asked for."""

    def __init__(self, res, attention=None):
        self.res, self.attention = res, attention

    def __call__(self, x, emb, drop_rate, drop_keys):
        """x: [B, H, W, C_in]; emb: [B, E]. Returns [B, H', W', C_out]."""
        x = self.res(x, emb, drop_rate, drop_keys)
        return x if self.attention is None else self.attention(x)
