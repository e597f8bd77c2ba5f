"""The ADM UNet (Dhariwal & Nichol 2021, arXiv:2105.05233, section 3 and appendix).

A network here maps (scaled input, time feature, condition embedding) to raw output channels. It
knows nothing of noise schedules, losses or guidance.
"""

import dataclasses

import jax.numpy as jnp
from flax import nnx

from jaxdiff.errors import UserError
from jaxdiff.models.encoder import Builder, Encoder, EncoderSpec, TimeConditioned
from jaxdiff.models.layers import conv, enlarge, fourier_features, group_norm, linear

UNCERTAINTY_WIDTH = 128


@dataclasses.dataclass(frozen=True, kw_only=True)
class UNetSpec(EncoderSpec):
    """What an ADM UNet is, beside its encoder.

    Attributes:
      out_channels: of its output; learned variance doubles them.
      num_heads_upsample: number of heads of every attention of the decoder; None: as elsewhere.
      num_classes: None for a network without labels.
      null_class: whether a further label, num_classes, stands for "not told".
      super_resolution: whether it also takes a smaller image of as many channels, to enlarge.
      uncertainty: whether it has a head that says how large its error is, for training alone.
    """

    out_channels: int
    num_heads_upsample: int | None = None
    num_classes: int | None = None
    null_class: bool = False
    super_resolution: bool = False
    uncertainty: bool = False

    def __post_init__(self):
        """Raises UserError for a network that cannot be built."""
        super().__post_init__()
        if self.num_heads_upsample is not None:
            self.check_heads("num_heads_upsample", self.num_heads_upsample)

    def decoder_heads(self, width):
        """Number of heads of an attention of the decoder."""
        return self.num_heads_upsample or self.heads(width)


class Decoder(nnx.Module):
    """The way up: each block takes the last skip not yet taken beside its input."""

    def __init__(self, spec, skip_widths, build):
        skip_widths = list(skip_widths)
        width = spec.widths[-1]
        groups = []
        for level in reversed(range(len(spec.widths))):
            attention = spec.resolutions[level] in spec.attention_resolutions
            heads = spec.decoder_heads(spec.widths[level]) if attention else None
            for _ in range(spec.num_res_blocks + 1):
                in_channels = width + skip_widths.pop()
                width = spec.widths[level]
                groups.append([build.block(in_channels, width, num_heads=heads)])
            if level:
                groups[-1].append(build.resample(width, "up"))
        self.blocks = nnx.List([nnx.List(group) for group in groups])

    def __call__(self, h, skips, emb, call):
        """Returns the finest level's features [B, H, W, C]."""
        for group, skip in zip(self.blocks, reversed(skips), strict=True):
            h = jnp.concatenate([h, skip], axis=-1)
            for block in group:
                h = call(block, h, emb)
        return h


class Uncertainty(nnx.Module):
    """The head of a learned loss weight: one linear layer on Fourier features, 0 at first."""

    def __init__(self, rngs: nnx.Rngs):
        self.out = linear(UNCERTAINTY_WIDTH, 1, dtype=jnp.float32, rngs=rngs, zero=True)

    def __call__(self, time):
        """[B] -> [B]."""
        return self.out(fourier_features(time, UNCERTAINTY_WIDTH))[:, 0]


class UNet(TimeConditioned):
    """ADM's UNet: an encoder, a middle, and a decoder that takes the encoder's outputs."""

    def __init__(self, spec: UNetSpec, *, rngs: nnx.Rngs):
        super().__init__(spec, rngs)
        self.labels = (
            nnx.Embed(
                spec.num_classes + spec.null_class,
                spec.emb_width,
                embedding_init=nnx.initializers.normal(1.0),
                rngs=rngs,
            )
            if spec.num_classes
            else None
        )
        build = Builder(spec, rngs)
        self.encoder = Encoder(spec, spec.in_channels * (1 + spec.super_resolution), build)
        self.decoder = Decoder(spec, self.encoder.skip_widths, build)
        self.norm = group_norm(spec.widths[0], rngs=rngs)
        # The output convolution stays in float32: its result is what losses and samplers see.
        self.out = conv(spec.widths[0], spec.out_channels, dtype=jnp.float32, rngs=rngs, zero=True)
        # Last, so that a network with the head starts from the parameters of one without.
        self.head = Uncertainty(rngs) if spec.uncertainty else None

    def uncertainty(self, time):
        """U of each sample, float32 [B], from time [B]: ln(sigma) / 4.

        exp(u) is how large the network's weighted error is (Karras et al. 2023, arXiv:2312.02696).
        """
        return self.head(time)

    def embed(self, labels):
        """Embeds labels [B] int32: [B, 4C] float32, or None for a network without classes."""
        return None if self.labels is None else self.labels(labels)

    def __call__(self, x, time, embedding=None, *, low_res=None, drop_rate=0.0, drop_keys=None):
        """Runs the network.

        Args:
          x: [B, H, W, in_channels] float32.
          time: [B] float, the noise level as the process tells it (ADM: timesteps 0 .. 999).
          embedding: [B, 4C] float32 from `embed`, or None.
          low_res: [B, h, w, in_channels] float32, the image to enlarge, where the network is one
            of super-resolution.
          drop_rate: dropout rate of every residual block, a Python number in [0, 1).
          drop_keys: [B] random keys, one a sample, where drop_rate is not 0.

        Returns:
          [B, H, W, out_channels] float32.
        """
        if (low_res is not None) != self.spec.super_resolution:
            raise UserError(
                "This network enlarges images: give it low_res."
                if self.spec.super_resolution
                else "This network does not enlarge images: leave out low_res."
            )
        if low_res is not None:
            x = jnp.concatenate([x, enlarge(low_res, *x.shape[1:3])], axis=-1)
        emb = self.embed_time(time)
        if embedding is not None:
            emb = emb + embedding.astype(emb.dtype)
        call = self.caller(drop_rate, drop_keys)
        h, skips = self.encoder(x.astype(self.spec.dtype), emb, call)
        h = self.decoder(h, skips, emb, call)
        return self.out(nnx.silu(self.norm(h)))
