"""The ADM UNet (Dhariwal & Nichol 2021, arXiv:2105.05233, section 3 and appendix).

A network here maps (scaled input, time feature, condition embedding) to raw output channels. It
knows nothing of noise schedules, losses or guidance.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdiff.errors import UserError
from jaxdiff.models.blocks import Attention, Block, ResBlock
from jaxdiff.models.layers import GROUPS, conv, group_norm, linear, timestep_embedding


@dataclasses.dataclass(frozen=True, kw_only=True)
class UNetSpec:
    """What an ADM UNet is.

    Attributes:
      image_size: height and width of its input, in pixels; every level but the last halves it.
      in_channels, out_channels: of its input and output; learned variance doubles the output's.
      channels: width of the network where channel_mult is 1.
      channel_mult: width of each level, as multiples of `channels`.
      num_res_blocks: residual blocks of an encoder level; a decoder level has one more.
      attention_resolutions: image sizes at which attention follows each residual block.
      head_channels: width of an attention head.
      num_classes: None for a network without labels.
      null_class: whether a further label, num_classes, stands for "not told".
      dtype: what it computes in: float32 or bfloat16. Parameters, norms and softmax are float32.
      remat: recompute each block in the backward pass instead of keeping its activations.
    """

    image_size: int
    in_channels: int
    out_channels: int
    channels: int
    channel_mult: tuple[float, ...]
    num_res_blocks: int
    attention_resolutions: tuple[int, ...] = ()
    head_channels: int = 64
    num_classes: int | None = None
    null_class: bool = False
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    def __post_init__(self):
        """Raises UserError for a network that cannot be built."""
        factor = 2 ** (len(self.channel_mult) - 1)
        if self.image_size % factor:
            raise UserError(
                f"image_size {self.image_size} cannot be halved {len(self.channel_mult) - 1} "
                f"times for channel_mult {self.channel_mult}: make it a multiple of {factor}, "
                "or list fewer levels."
            )
        resolutions = [self.image_size >> level for level in range(len(self.channel_mult))]
        if unknown := set(self.attention_resolutions) - set(resolutions):
            raise UserError(
                f"attention_resolutions {self.attention_resolutions} name {min(unknown)}, but "
                f"the levels of this network have the resolutions {resolutions}."
            )
        for width in self.widths:
            if width % GROUPS:
                raise UserError(
                    f"channels {self.channels} times channel_mult {self.channel_mult} gives a "
                    f"level {width} wide: every width must be a multiple of {GROUPS}, the number "
                    "of groups of its normalisation."
                )
        attended = {self.widths[resolutions.index(r)] for r in self.attention_resolutions}
        for width in {*attended, self.widths[-1]}:
            if width % self.head_channels:
                raise UserError(
                    f"head_channels {self.head_channels} does not divide a level {width} wide "
                    "that has attention: choose a divisor of it."
                )

    @property
    def widths(self):
        """Number of channels of each level."""
        return tuple(int(mult * self.channels) for mult in self.channel_mult)

    @property
    def emb_width(self):
        """Width of the time and label embeddings."""
        return 4 * self.channels


class Builder:
    """Numbers the blocks of a network while it is built, and gives them what all have in common."""

    def __init__(self, spec, rngs):
        self.spec, self.rngs, self.count = spec, rngs, 0

    def block(self, in_channels, out_channels, *, resample=None, attention=False):
        """The next block of the network."""
        common = {"dtype": self.spec.dtype, "rngs": self.rngs}
        res = ResBlock(
            in_channels,
            out_channels,
            self.spec.emb_width,
            resample=resample,
            index=self.count,
            **common,
        )
        self.count += 1
        if not attention:
            return Block(res)
        return Block(
            res, Attention(out_channels, out_channels // self.spec.head_channels, **common)
        )


class Encoder(nnx.Module):
    """The way down and the middle: every block's output on the way down is kept as a skip."""

    def __init__(self, spec, build, *, rngs):
        size, width = spec.image_size, spec.widths[0]
        self.stem = conv(spec.in_channels, width, dtype=spec.dtype, rngs=rngs)
        blocks, skip_widths = [], [width]
        for level, level_width in enumerate(spec.widths):
            attention = size in spec.attention_resolutions
            for _ in range(spec.num_res_blocks):
                blocks.append(build.block(width, level_width, attention=attention))
                skip_widths.append(width := level_width)
            if level + 1 < len(spec.widths):
                blocks.append(build.block(width, width, resample="down"))
                skip_widths.append(width)
                size //= 2
        self.blocks = nnx.List(blocks)
        self.middle = nnx.List(
            [build.block(width, width, attention=True), build.block(width, width)]
        )
        self.skip_widths = tuple(skip_widths)

    def __call__(self, x, emb, call):
        """Returns the middle's output and the list of skips, finest first."""
        skips = [self.stem(x)]
        for block in self.blocks:
            skips.append(call(block, skips[-1], emb))
        h = skips[-1]
        for block in self.middle:
            h = call(block, h, emb)
        return h, skips


class Decoder(nnx.Module):
    """The way up: each block takes the last skip not yet taken beside its input."""

    def __init__(self, spec, skip_widths, build):
        skip_widths = list(skip_widths)
        width = spec.widths[-1]
        blocks = []
        for level in reversed(range(len(spec.widths))):
            attention = spec.image_size >> level in spec.attention_resolutions
            for _ in range(spec.num_res_blocks + 1):
                in_channels = width + skip_widths.pop()
                width = spec.widths[level]
                blocks.append([build.block(in_channels, width, attention=attention)])
            if level:
                blocks[-1].append(build.block(width, width, resample="up"))
        self.blocks = nnx.List([nnx.List(group) for group in blocks])

    def __call__(self, h, skips, emb, call):
        """Returns the finest level's features [B, H, W, C]."""
        for group, skip in zip(self.blocks, reversed(skips), strict=True):
            h = jnp.concatenate([h, skip], axis=-1)
            for block in group:
                h = call(block, h, emb)
        return h


class UNet(nnx.Module):
    """ADM's UNet with AdaGN, BigGAN resampling and multi-head attention."""

    def __init__(self, spec: UNetSpec, *, rngs: nnx.Rngs):
        self.spec = spec
        common = {"dtype": spec.dtype, "rngs": rngs}
        build = Builder(spec, rngs)
        self.time1 = linear(spec.channels, spec.emb_width, **common)
        self.time2 = linear(spec.emb_width, spec.emb_width, **common)
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
        self.encoder = Encoder(spec, build, rngs=rngs)
        self.decoder = Decoder(spec, self.encoder.skip_widths, build)
        self.norm = group_norm(spec.widths[0], rngs=rngs)
        # The output convolution stays in float32: its result is what losses and samplers see.
        self.out = conv(spec.widths[0], spec.out_channels, dtype=jnp.float32, rngs=rngs, zero=True)

    def embed(self, labels):
        """Embeds labels [B] int32: [B, 4C] float32, or None for a network without classes."""
        return None if self.labels is None else self.labels(labels)

    def __call__(self, x, time, embedding=None, *, drop_rate=0.0, drop_keys=None):
        """Runs the network.

        Args:
          x: [B, H, W, in_channels] float32.
          time: [B] float, the noise level as the process tells it (ADM: timesteps 0 .. 999).
          embedding: [B, 4C] float32 from `embed`, or None.
          drop_rate: dropout rate of every residual block, a Python number in [0, 1).
          drop_keys: [B] random keys, one a sample, where drop_rate is not 0.

        Returns:
          [B, H, W, out_channels] float32.
        """
        emb = self.time2(nnx.silu(self.time1(timestep_embedding(time, self.spec.channels))))
        if embedding is not None:
            emb = emb + embedding.astype(emb.dtype)

        def run(block, h, emb):
            # What a block keeps for the backward pass is its input alone.
            once = partial(_run_block, block, drop_rate=drop_rate)
            return (jax.checkpoint(once) if self.spec.remat else once)(h, emb, drop_keys)

        h, skips = self.encoder(x.astype(self.spec.dtype), emb, run)
        h = self.decoder(h, skips, emb, run)
        return self.out(nnx.silu(self.norm(h)))


def _run_block(block, h, emb, drop_keys, *, drop_rate):
    return block(h, emb, drop_rate, drop_keys)
