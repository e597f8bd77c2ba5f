"""ADM's classifier of noisy images (Dhariwal & Nichol 2021, arXiv:2105.05233, section 4).

It is the UNet's encoder and middle, and a head that sums up the image. The paper's classifiers
have the head `attention`; the others are what its code offers beside.
"""

import dataclasses

import jax.numpy as jnp
from flax import nnx

from jaxdiff.errors import UserError
from jaxdiff.models.blocks import attend
from jaxdiff.models.encoder import Builder, Encoder, EncoderSpec, TimeConditioned
from jaxdiff.models.layers import group_norm, linear

HIDDEN = 2048  # width of the hidden layer of the spatial heads


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierSpec(EncoderSpec):
    """What an ADM classifier is, beside its encoder.

    Attributes:
      num_classes: number of logits.
      pool: head of the network: attention, adaptive, spatial or spatial_v2.
    """

    num_classes: int
    pool: str = "attention"

    def __post_init__(self):
        """Raises UserError for a network that cannot be built."""
        super().__post_init__()
        if self.pool not in HEADS:
            raise UserError(f"pool is {self.pool}: it must be one of {', '.join(HEADS)}.")


class AttentionHead(nnx.Module):
    """What a token with the image's mean learns from attending to all positions.

    This is the attention pool of CLIP (Radford et al. 2021, arXiv:2103.00020, section 2.4).
    """

    def __init__(self, spec, skip_widths, *, rngs):
        width, tokens = spec.widths[-1], 1 + spec.resolutions[-1] ** 2
        self.num_heads = spec.heads(width)
        self.norm = group_norm(width, rngs=rngs)
        normal = nnx.initializers.normal(width**-0.5)
        self.position = nnx.Param(normal(rngs.params(), (tokens, width)))
        self.qkv = linear(width, 3 * width, dtype=jnp.float32, rngs=rngs)
        self.out = linear(width, spec.num_classes, dtype=jnp.float32, rngs=rngs)

    def __call__(self, h, skips):
        """h: [B, H, W, C]. Returns [B, C]."""
        h = nnx.silu(self.norm(h)).reshape(h.shape[0], -1, h.shape[-1])
        h = jnp.concatenate([h.mean(1, keepdims=True), h], axis=1) + self.position[...]
        return attend(self.qkv(h), self.num_heads, queries=1)[:, 0]


class AdaptiveHead(nnx.Module):
    """The means over the image's positions."""

    def __init__(self, spec, skip_widths, *, rngs):
        width = spec.widths[-1]
        self.norm = group_norm(width, rngs=rngs)
        self.out = linear(width, spec.num_classes, dtype=jnp.float32, rngs=rngs, zero=True)

    def __call__(self, h, skips):
        """h: [B, H, W, C]. Returns [B, C]."""
        return nnx.silu(self.norm(h)).mean((1, 2))


class SpatialHead(nnx.Module):
    """What follows from the means over positions of every block of the encoder."""

    def __init__(self, spec, skip_widths, *, rngs):
        width = sum(skip_widths) + spec.widths[-1]
        self.hidden = linear(width, HIDDEN, dtype=jnp.float32, rngs=rngs)
        self.norm = group_norm(HIDDEN, rngs=rngs) if spec.pool == "spatial_v2" else None
        self.out = linear(HIDDEN, spec.num_classes, dtype=jnp.float32, rngs=rngs)

    def __call__(self, h, skips):
        """h: [B, H, W, C]; skips: of the encoder. Returns [B, 2048]."""
        means = [image.astype(jnp.float32).mean((1, 2)) for image in (*skips, h)]
        hidden = self.hidden(jnp.concatenate(means, axis=-1))
        return nnx.relu(hidden) if self.norm is None else nnx.silu(self.norm(hidden))


HEADS = {
    "attention": AttentionHead,
    "adaptive": AdaptiveHead,
    "spatial": SpatialHead,
    "spatial_v2": SpatialHead,
}


class EncoderClassifier(TimeConditioned):
    """ADM's classifier: an encoder, a middle, and a head in float32, whose `out` ends it."""

    def __init__(self, spec: ClassifierSpec, *, rngs: nnx.Rngs):
        super().__init__(spec, rngs)
        self.encoder = Encoder(spec, spec.in_channels, Builder(spec, rngs))
        self.head = HEADS[spec.pool](spec, self.encoder.skip_widths, rngs=rngs)

    def __call__(self, x, time, *, drop_rate=0.0, drop_keys=None):
        """Runs the network.

        Args:
          x: [B, H, W, in_channels] float32.
          time: [B] float, the noise level as the process tells it (ADM: timesteps 0 .. 999).
          drop_rate: dropout rate of every residual block, a Python number in [0, 1).
          drop_keys: [B] random keys, one a sample, where drop_rate is not 0.

        Returns:
          [B, classes] float32, the logits.
        """
        return self.head.out(self.features(x, time, drop_rate=drop_rate, drop_keys=drop_keys))

    def features(self, x, time, *, drop_rate=0.0, drop_keys=None):
        """What the logits are linear in: [B, C] float32 (2048 for the spatial heads)."""
        call = self.caller(drop_rate, drop_keys)
        h, skips = self.encoder(x.astype(self.spec.dtype), self.embed_time(time), call)
        return self.head(h, skips)
