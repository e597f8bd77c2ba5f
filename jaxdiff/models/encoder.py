"""What ADM's UNet and classifier share: the time embedding, the way down and the middle.

Dhariwal & Nichol 2021, arXiv:2105.05233, section 3 and appendix.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdiff.errors import UserError
from jaxdiff.models.blocks import Attention, Block, Resample, ResBlock
from jaxdiff.models.layers import LEAST_GROUPS, conv, linear, timestep_embedding


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderSpec:
    """What an ADM encoder is. The defaults are the paper's choices.

    Attributes:
      image_size: height and width of its input, in pixels; every level but the last halves it.
      in_channels: of its input.
      channels: width of the network where channel_mult is 1.
      channel_mult: width of each level, as multiples of `channels`.
      num_res_blocks: residual blocks of an encoder level; a decoder level has one more.
      attention_resolutions: image sizes at which attention follows each residual block.
      head_channels: width of an attention head, where num_heads is None.
      num_heads: number of heads of every attention, or None.
      resblock_updown: change the resolution inside residual blocks, as BigGAN does; or in layers
        of their own, as DDPM does.
      conv_resample: whether those layers hold a convolution.
      adaptive_norm: let the embedding scale and shift a norm (AdaGN), or add it before the norm.
      rescale_residuals: divide the sums of residual blocks and attention by sqrt 2.
      dtype: what it computes in: float32 or bfloat16. Parameters, norms and softmax are float32.
      remat: recompute each block in the backward pass instead of keeping its activations.
    """

    image_size: int
    in_channels: int
    channels: int
    channel_mult: tuple[float, ...]
    num_res_blocks: int
    attention_resolutions: tuple[int, ...] = ()
    head_channels: int = 64
    num_heads: int | None = None
    resblock_updown: bool = True
    conv_resample: bool = True
    adaptive_norm: bool = True
    rescale_residuals: bool = False
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
        if unknown := set(self.attention_resolutions) - set(self.resolutions):
            raise UserError(
                f"attention_resolutions {self.attention_resolutions} name {min(unknown)}, but "
                f"the levels of this network have the resolutions {list(self.resolutions)}."
            )
        for width in self.widths:
            if width % LEAST_GROUPS or not width:
                raise UserError(
                    f"channels {self.channels} times channel_mult {self.channel_mult} gives a "
                    f"level {width} wide: every width must be a multiple of {LEAST_GROUPS}, so "
                    "that its normalisation has groups."
                )
        self.check_heads("num_heads", self.num_heads)

    def check_heads(self, name, count):
        """Raises UserError if a width with attention cannot be cut into heads."""
        if count is None:
            name, count = "head_channels", self.head_channels
        attended = {self.width_at(size) for size in self.attention_resolutions}
        for width in sorted({*attended, self.widths[-1]}):
            if count < 1 or width % count:
                raise UserError(
                    f"{name} {count} does not divide a level {width} wide that has attention: "
                    "choose a divisor of it."
                )

    @property
    def widths(self):
        """Number of channels of each level."""
        return tuple(int(mult * self.channels) for mult in self.channel_mult)

    @property
    def resolutions(self):
        """Image size of each level."""
        return tuple(self.image_size >> level for level in range(len(self.channel_mult)))

    @property
    def emb_width(self):
        """Width of the time and label embeddings."""
        return 4 * self.channels

    def width_at(self, resolution):
        """Number of channels of the level with an image size."""
        return self.widths[self.resolutions.index(resolution)]

    def heads(self, width):
        """Number of heads of an attention of the encoder or the middle."""
        return self.num_heads or width // self.head_channels


class Builder:
    """Numbers the blocks of a network while it is built, and gives them what all have in common."""

    def __init__(self, spec, rngs):
        self.spec, self.rngs, self.count = spec, rngs, 0

    def block(self, in_channels, out_channels, *, resample=None, num_heads=None):
        """The next block of the network, with attention if there are heads."""
        index, self.count = self.count, self.count + 1
        res = ResBlock(
            self.spec, in_channels, out_channels, resample=resample, index=index, rngs=self.rngs
        )
        if not num_heads:
            return Block(res)
        return Block(res, Attention(self.spec, out_channels, num_heads, rngs=self.rngs))

    def resample(self, channels, direction):
        """What leads to the level below (`down`) or above (`up`)."""
        if self.spec.resblock_updown:
            return self.block(channels, channels, resample=direction)
        learned = self.spec.conv_resample
        return Resample(channels, direction, learned, dtype=self.spec.dtype, rngs=self.rngs)


class Encoder(nnx.Module):
    """The way down and the middle: every block's output on the way down is kept as a skip."""

    def __init__(self, spec, in_channels, build):
        width = spec.widths[0]
        self.stem = conv(in_channels, width, dtype=spec.dtype, rngs=build.rngs)
        blocks, skip_widths = [], [width]
        for level, (size, level_width) in enumerate(
            zip(spec.resolutions, spec.widths, strict=True)
        ):
            heads = spec.heads(level_width) if size in spec.attention_resolutions else None
            for _ in range(spec.num_res_blocks):
                blocks.append(build.block(width, level_width, num_heads=heads))
                skip_widths.append(width := level_width)
            if level + 1 < len(spec.widths):
                blocks.append(build.resample(width, "down"))
                skip_widths.append(width)
        self.blocks = nnx.List(blocks)
        attended = build.block(width, width, num_heads=spec.heads(width))
        self.middle = nnx.List([attended, build.block(width, width)])
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


class TimeConditioned(nnx.Module):
    """A network that is told the noise level, and how it runs its blocks."""

    def __init__(self, spec, rngs):
        self.spec = spec
        self.time1 = linear(spec.channels, spec.emb_width, dtype=spec.dtype, rngs=rngs)
        self.time2 = linear(spec.emb_width, spec.emb_width, dtype=spec.dtype, rngs=rngs)

    def embed_time(self, time):
        """time: [B], any real number type. Returns [B, 4C]."""
        return self.time2(nnx.silu(self.time1(timestep_embedding(time, self.spec.channels))))

    def caller(self, drop_rate, drop_keys):
        """How blocks are called: (block, h, emb) -> h, with dropout, recomputed where asked for."""

        def run(block, h, emb):
            # What a block keeps for the backward pass is its input alone.
            once = partial(_run_block, block, drop_rate=drop_rate)
            return (jax.checkpoint(once) if self.spec.remat else once)(h, emb, drop_keys)

        return run


def _run_block(block, h, emb, drop_keys, *, drop_rate):
    return block(h, emb, drop_rate, drop_keys)
