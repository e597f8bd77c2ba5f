"""What ADM's UNet and classifier share: the time embedding, the encoder and the middle blocks.

Dhariwal & Nichol 2021, arXiv:2105.05233, section 3 and appendix.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdiff.models import attention
from jaxdiff.models.blocks import Attention, Block, Resample, ResBlock
from jaxdiff.models.layers import Conv, Linear, timestep_embedding


class Builder:
    """Makes the blocks of a network: numbers them, and gives them what all have in common."""

    def __init__(self, config, dtype, rngs, attend=None):
        self.config, self.dtype, self.rngs, self.count = config, dtype, rngs, 0
        self.attend = attend or attention.attend

    def block(self, in_channels, out_channels, *, resample=None, num_heads=None):
        """The next block of the network, with attention if there are heads."""
        common = {"dtype": self.dtype, "rngs": self.rngs}
        index, self.count = self.count, self.count + 1
        res = ResBlock(
            self.config, in_channels, out_channels, resample=resample, index=index, **common
        )
        if not num_heads:
            return Block(res)
        common["attend"] = self.attend
        return Block(res, Attention(self.config, out_channels, num_heads, **common))

    def resample(self, channels, direction):
        """What leads to the level below (`down`) or above (`up`)."""
        if self.config.resblock_updown:
            return self.block(channels, channels, resample=direction)
        learned = self.config.conv_resample
        return Resample(channels, direction, learned, dtype=self.dtype, rngs=self.rngs)


class Encoder(nnx.Module):
    """The way down and the middle: every block's output on the way down is kept as a skip."""

    def __init__(self, config, image_size, in_channels, build):
        widths, sizes = config.widths, config.resolutions(image_size)
        width = widths[0]
        self.stem = Conv(in_channels, width, dtype=build.dtype, rngs=build.rngs)
        blocks, skip_widths = [], [width]
        for level, (size, level_width) in enumerate(zip(sizes, widths, strict=True)):
            heads = config.heads(level_width) if size in config.attention_resolutions else None
            for _ in range(config.num_res_blocks):
                blocks.append(build.block(width, level_width, num_heads=heads))
                skip_widths.append(width := level_width)
            if level + 1 < len(widths):
                blocks.append(build.resample(width, "down"))
                skip_widths.append(width)
        self.blocks = nnx.List(blocks)
        attended = build.block(width, width, num_heads=config.heads(width))
        self.middle = nnx.List([attended, build.block(width, width)])
        self.skip_widths = tuple(skip_widths)

    def __call__(self, x, emb, call):
        """Runs the encoder.

        Args:
          x: [B, H, W, in_channels] in the network's dtype.
          emb: [B, E], the embedding of time and conditions.
          call: (block, h, emb) -> h, from `TimeConditioned.caller`.

        Returns:
          (the middle's output [B, H', W', C], the list of skips, finest first).
        """
        skips = [self.stem(x)]
        for block in self.blocks:
            skips.append(call(block, skips[-1], emb))
        h = skips[-1]
        for block in self.middle:
            h = call(block, h, emb)
        return h, skips


class TimeConditioned(nnx.Module):
    """A network conditioned on the noise level: its embedding, and how blocks are called."""

    def __init__(self, config, signature, rngs):
        self.config, self.remat = config, signature.remat
        self.dtype = jnp.dtype(signature.dtype)
        self.time1 = Linear(config.channels, config.emb_width, dtype=self.dtype, rngs=rngs)
        self.time2 = Linear(config.emb_width, config.emb_width, dtype=self.dtype, rngs=rngs)

    def embed_time(self, time):
        """time: [B], any real number type. Returns [B, 4C]."""
        return self.time2(nnx.silu(self.time1(timestep_embedding(time, self.config.channels))))

    def caller(self, dropout):
        """How blocks are called: (block, h, emb) -> h, recomputed in the backward pass or not."""

        def run(block, h, emb):
            # What a block keeps for the backward pass is its input alone.
            once = partial(_run_block, block)
            return (jax.checkpoint(once) if self.remat else once)(h, emb, dropout)

        return run


def _run_block(block, h, emb, dropout):
    return block(h, emb, dropout)
