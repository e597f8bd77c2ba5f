"""ADM's classifier of noisy images (Dhariwal & Nichol 2021, arXiv:2105.05233, section 4).

It is the UNet's encoder and middle, and a head that sums up the image. The paper's classifiers
have the head `attention`; the others are what its code offers beside.
"""

import jax.numpy as jnp
from flax import nnx

from jaxdiff.models.attention import attend
from jaxdiff.models.encoder import Builder, Encoder, TimeConditioned
from jaxdiff.models.initializers import normal
from jaxdiff.models.layers import Linear
from jaxdiff.models.normalization import GroupNorm

HIDDEN = 2048  # width of the hidden layer of the spatial heads


class AttentionHead(nnx.Module):
    """What a token with the image's mean learns from attending to all positions.

    This is the attention pool of CLIP (Radford et al. 2021, arXiv:2103.00020, section 2.4).
    """

    def __init__(self, config, image_size, skip_widths, *, rngs):
        width, tokens = config.widths[-1], 1 + config.resolutions(image_size)[-1] ** 2
        self.num_heads = config.heads(width)
        self.norm = GroupNorm(width, rngs=rngs)
        self.position = nnx.Param(normal(rngs.params(), (tokens, width), width**-0.5))
        self.qkv = Linear(width, 3 * width, dtype=jnp.float32, rngs=rngs)
        self.out = Linear(width, config.label.classes, dtype=jnp.float32, rngs=rngs)

    def __call__(self, h, skips):
        """h: [B, H, W, C]. Returns [B, C]."""
        h = self.norm(h, silu=True).reshape(h.shape[0], -1, h.shape[-1])
        h = jnp.concatenate([h.mean(1, keepdims=True), h], axis=1) + self.position[...]
        return attend(self.qkv(h), self.num_heads, queries=1)[:, 0]


class AdaptiveHead(nnx.Module):
    """The means over the image's positions."""

    def __init__(self, config, image_size, skip_widths, *, rngs):
        width = config.widths[-1]
        self.norm = GroupNorm(width, rngs=rngs)
        self.out = Linear(width, config.label.classes, dtype=jnp.float32, rngs=rngs, zero=True)

    def __call__(self, h, skips):
        """h: [B, H, W, C]. Returns [B, C]."""
        return self.norm(h, silu=True).mean((1, 2))


class SpatialHead(nnx.Module):
    """What follows from the means over positions of every block of the encoder."""

    def __init__(self, config, image_size, skip_widths, *, rngs):
        width = sum(skip_widths) + config.widths[-1]
        self.hidden = Linear(width, HIDDEN, dtype=jnp.float32, rngs=rngs)
        self.norm = GroupNorm(HIDDEN, rngs=rngs) if config.pool == "spatial_v2" else None
        self.out = Linear(HIDDEN, config.label.classes, dtype=jnp.float32, rngs=rngs)

    def __call__(self, h, skips):
        """h: [B, H, W, C]; skips: of the encoder. Returns [B, 2048]."""
        means = [image.astype(jnp.float32).mean((1, 2)) for image in (*skips, h)]
        hidden = self.hidden(jnp.concatenate(means, axis=-1))
        return nnx.relu(hidden) if self.norm is None else self.norm(hidden, silu=True)


HEADS = {
    "attention": AttentionHead,
    "adaptive": AdaptiveHead,
    "spatial": SpatialHead,
    "spatial_v2": SpatialHead,
}


class Classifier(TimeConditioned):
    """ADM's classifier: an encoder, a middle, and a head in float32, whose `out` ends it."""

    def __init__(self, config, signature, *, rngs: nnx.Rngs):
        """Settings are a ClassifierConfig and a Signature."""
        super().__init__(config, signature, rngs)
        size, *_, channels = signature.shape
        build = Builder(config, self.dtype, rngs, signature.attend)
        self.encoder = Encoder(config, size, channels, build)
        self.head = HEADS[config.pool](config, size, self.encoder.skip_widths, rngs=rngs)

    def __call__(self, x, time, dropout=None):
        """Runs the network.

        Args:
          x: [B, H, W, C] float32.
          time: [B] float, the noise level as the process gives it (ADM: timesteps 0 .. 999).
          dropout: a Dropout of every residual block, or None.

        Returns:
          [B, classes] float32, the logits.
        """
        return self.head.out(self.features(x, time, dropout))

    def features(self, x, time, dropout=None):
        """What the logits are linear in: [B, C] float32 (2048 for the spatial heads)."""
        call = self.caller(dropout)
        h, skips = self.encoder(x.astype(self.dtype), self.embed_time(time), call)
        return self.head(h, skips)
