"""The ADM UNet (Dhariwal & Nichol 2021, arXiv:2105.05233, section 3 and appendix).

It maps (scaled input, time feature, Condition) to raw output channels; noise schedules, losses and
guidance are not its business.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdiff.config import Image, Label, Vector
from jaxdiff.models.condition import Condition
from jaxdiff.models.embedders import LabelTable, VectorEmbedder
from jaxdiff.models.encoder import Builder, Encoder, TimeConditioned
from jaxdiff.models.layers import Conv, Linear, fourier_features, resized
from jaxdiff.models.normalization import GroupNorm

UNCERTAINTY_WIDTH = 128


class Decoder(nnx.Module):
    """The way up: each block takes the last skip not yet taken beside its input."""

    def __init__(self, config, image_size, skip_widths, build):
        skip_widths = list(skip_widths)
        widths, sizes = config.widths, config.resolutions(image_size)
        width = widths[-1]
        groups = []
        for level in reversed(range(len(widths))):
            attention = sizes[level] in config.attention_resolutions
            heads = config.decoder_heads(widths[level]) if attention else None
            for _ in range(config.num_res_blocks + 1):
                in_channels = width + skip_widths.pop()
                width = widths[level]
                groups.append([build.block(in_channels, width, num_heads=heads)])
            if level:
                groups[-1].append(build.resample(width, "up"))
        self.blocks = nnx.List([nnx.List(group) for group in groups])

    def __call__(self, h, skips, emb, call):
        """Returns the finest level's features [B, H, W, C]; arguments as of `Encoder`."""
        for group, skip in zip(self.blocks, reversed(skips), strict=True):
            h = jnp.concatenate([h, skip], axis=-1)
            for block in group:
                h = call(block, h, emb)
        return h


class Uncertainty(nnx.Module):
    """The head of a learned loss weight: one linear layer on Fourier features, 0 at first."""

    def __init__(self, rngs: nnx.Rngs):
        self.out = Linear(UNCERTAINTY_WIDTH, 1, dtype=jnp.float32, rngs=rngs, zero=True)

    def __call__(self, time):
        """[B] -> [B]."""
        return self.out(fourier_features(time, UNCERTAINTY_WIDTH))[:, 0]


class UNet(TimeConditioned):
    """ADM's UNet: an encoder, a middle, and a decoder that takes the encoder's outputs."""

    def __init__(self, config, signature, *, rngs: nnx.Rngs):
        """Settings are a UNetConfig and a Signature."""
        super().__init__(config, signature, rngs)
        labels, vectors, self.images = (
            tuple(each for each in config.conditions if isinstance(each, kind))
            for kind in (Label, Vector, Image)
        )
        common = {"null": signature.null, "rngs": rngs}
        self.labels = LabelTable(labels, config.emb_width, **common) if labels else None
        self.vectors = nnx.List([VectorEmbedder(v, config.emb_width, **common) for v in vectors])
        size, *_, channels = signature.shape
        build = Builder(config, self.dtype, rngs, signature.attend)
        in_channels = channels + sum(image.channels for image in self.images)
        self.encoder = Encoder(config, size, in_channels, build)
        self.decoder = Decoder(config, size, self.encoder.skip_widths, build)
        width = config.widths[0]
        self.norm = GroupNorm(width, rngs=rngs)
        # The output convolution stays in float32: its result is what losses and samplers see.
        self.out = Conv(width, signature.out_channels, dtype=jnp.float32, rngs=rngs, zero=True)
        # Last, so that a network with the head starts from the parameters of one without.
        self.head = Uncertainty(rngs) if signature.uncertainty else None

    def uncertainty(self, time):
        """U of each sample, float32 [B], from time [B]: ln(sigma) / 4.

        exp(u) is how large the network's weighted error is (Karras et al. 2023, arXiv:2312.02696).
        """
        return self.head(time)

    def embed(self, cond):
        """The Condition of cond, {name: array [B, ...]}: embeddings [B, 4C], and images."""
        vectors = [v for embedder in self._embedders() for v in embedder.embed(cond)]
        return Condition(tuple(vectors), tuple(cond[image.name] for image in self.images))

    def null(self, cond):
        """The null Condition: learned for labels and vectors, zeros for images."""
        vectors = [v for embedder in self._embedders() for v in embedder.null(cond)]
        images = tuple(jnp.zeros_like(cond[image.name]) for image in self.images)
        return Condition(tuple(vectors), images)

    def _embedders(self):
        return [*([] if self.labels is None else [self.labels]), *self.vectors]

    def __call__(self, x, time, condition=Condition(), dropout=None):  # noqa: B008, it is frozen
        """Runs the network.

        Args:
          x: [B, H, W, C] float32.
          time: [B] float, the noise level as the process gives it (ADM: timesteps 0 .. 999).
          condition: a Condition from `embed` or `null`.
          dropout: a Dropout of every residual block, or None.

        Returns:
          [B, H, W, out_channels] float32.
        """
        images = [resized(image, *x.shape[1:3]) for image in jax.tree.leaves(condition.image)]
        x = jnp.concatenate([x, *images], axis=-1)
        emb = self.embed_time(time)
        for vector in jax.tree.leaves(condition.vector):
            emb = emb + vector.astype(emb.dtype)
        call = self.caller(dropout)
        h, skips = self.encoder(x.astype(self.dtype), emb, call)
        h = self.decoder(h, skips, emb, call)
        return self.out(self.norm(h, silu=True))
