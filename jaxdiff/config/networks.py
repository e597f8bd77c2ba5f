"""Settings of networks: ADM's UNet and noisy classifier (Dhariwal & Nichol 2021, arXiv:2105.05233).

A network kind from elsewhere is a class of settings with

    codec                      a codec's settings, such as PixelCodec()
    conditions                 a tuple of conditions that the network takes
    check_shape(shape)         raises UserError if it cannot be built for samples of a shape
    build(signature, rngs)     makes the Flax NNX module; see jaxdiff.models.network
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Literal

from jaxdiff.config.conditions import Condition, Label, Tokens
from jaxdiff.config.fields import OPEN, Range, settings
from jaxdiff.errors import UserError

WIDEST = 2**16  # channels of a level
LEAST_GROUPS = 8  # channels of a level are a multiple, so that their norm has groups


@settings(kind="pixels")
class PixelCodec:
    """Images themselves: uint8 values 0 .. 255 as x in [-1, 1].

    A codec from elsewhere is a class of settings with the same method and `build()`, which returns
    an object such as jaxdiff.models.codecs.Pixels: encode and decode.
    """

    def shape(self, shape):
        """The shape of x for data of a shape: the same."""
        return shape


PIXELS = PixelCodec()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Signature:
    """What a run asks of its network beside the network's own settings.

    Attributes:
      shape: shape of one sample x, such as (64, 64, 3).
      out_channels: of its output: the sample's channels, or twice as many for a learned variance.
      null: whether it learns a null condition.
      uncertainty: whether it has a head that predicts its own error, for training alone.
      dtype: type that it computes in, float32 or bfloat16; parameters are float32.
      remat: recompute each block in the backward pass instead of keeping its activations.
      attend: computes attention, (qkv [B, N, 3C], num_heads) -> [B, N, C], hashable, such as what
        jaxdiff.parallel.attention chooses for the devices; None: jaxdiff.models.attention.attend.
    """

    shape: tuple[int, ...]
    out_channels: int
    null: bool = False
    uncertainty: bool = False
    dtype: str = "float32"
    remat: bool = False
    attend: Callable | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Encoder:
    """Settings of the encoder that the UNet and the classifier share; the paper's by default.

    Attributes:
      channels: width of a level where channel_mult is 1.
      channel_mult: width of each level, as multiples of `channels`; each level but the last halves
        the image.
      num_res_blocks: number of residual blocks of a level; a level of the decoder has one more.
      attention_resolutions: sizes of the levels at which attention follows each residual block.
      head_channels: width of an attention head, where num_heads is 0.
      num_heads: number of heads of every attention; 0: given by head_channels.
      resblock_updown: whether the resolution changes inside residual blocks, as in BigGAN, or in
        layers of their own, as in DDPM.
      conv_resample: whether these layers have a convolution, where resblock_updown is False.
      adaptive_norm: whether the embedding scales and shifts the output of a norm (AdaGN); False: it
        is added to its input.
      rescale_residuals: whether the sums of residual blocks and attention are divided by sqrt 2.
      dropout: dropout rate in residual blocks, in training.
      codec: converts images to samples x and back.
    """

    channels: Annotated[int, Range(1, 2**14)] = 128
    channel_mult: Annotated[tuple[float, ...], Range(1e-9, WIDEST)] = (1, 2, 3, 4)
    num_res_blocks: Annotated[int, Range(1, 2**8)] = 2
    attention_resolutions: Annotated[tuple[int, ...], Range(1, 2**14)] = (16, 8)
    head_channels: Annotated[int, Range(1, 2**14)] = 64
    num_heads: Annotated[int, Range(0, 2**14)] = 0
    resblock_updown: bool = True
    conv_resample: bool = True
    adaptive_norm: bool = True
    rescale_residuals: bool = False
    dropout: Annotated[float, Range(0, 1, below=True)] = 0.0
    codec: Annotated[PixelCodec, OPEN] = PIXELS

    @property
    def widths(self):
        """Number of channels of each level."""
        return tuple(int(mult * self.channels) for mult in self.channel_mult)

    @property
    def emb_width(self):
        """Width of the embeddings of time and conditions."""
        return 4 * self.channels

    def resolutions(self, image_size):
        """Image size of each level."""
        return tuple(image_size >> level for level in range(len(self.channel_mult)))

    def heads(self, width):
        """Number of heads of an attention of the encoder or the middle."""
        return self.num_heads or width // self.head_channels

    def check(self):
        """Raises UserError for levels that no network can have."""
        if not self.channel_mult:
            raise UserError("model.channel_mult is empty: it must hold a number for each level.")
        for width in self.widths:
            if width % LEAST_GROUPS or not 0 < width <= WIDEST:
                raise UserError(
                    f"model.channels {self.channels} times model.channel_mult {self.channel_mult} "
                    f"gives a level {width} wide: every width must be a multiple of "
                    f"{LEAST_GROUPS}, at most {WIDEST}; choose others."
                )

    def check_shape(self, shape):
        """Raises UserError if the network cannot be built for samples of a shape (H, W, C)."""
        if len(shape) != 3:
            raise UserError(
                f"model.kind is {self.kind}, which takes images, and the data have the shape "
                f"{shape}: use a network for them."
            )
        factor = 2 ** (len(self.channel_mult) - 1)
        if shape[0] % factor:
            raise UserError(
                f"data.image_size is {shape[0]}: it cannot be halved {len(self.channel_mult) - 1} "
                f"times for model.channel_mult {self.channel_mult}; make it a multiple of {factor}."
            )
        sizes = self.resolutions(shape[0])
        if unknown := set(self.attention_resolutions) - set(sizes):
            raise UserError(
                f"model.attention_resolutions has {min(unknown)}: the levels of images of "
                f"{shape[0]} have the sizes {', '.join(map(str, sizes))}; choose among them."
            )
        attended = {self.widths[sizes.index(size)] for size in self.attention_resolutions}
        for name, count in self._head_counts():
            for width in sorted({*attended, self.widths[-1]}):
                if width % count:
                    raise UserError(
                        f"{name} is {count}: it must divide the width {width} of a level that has "
                        "attention."
                    )

    def _head_counts(self):
        if self.num_heads:
            return [("model.num_heads", self.num_heads)]
        return [("model.head_channels", self.head_channels)]


@settings(kind="unet", section="model")
class UNetConfig(_Encoder):
    """ADM's UNet, conditioned on labels, vectors and maps.

    Attributes:
      num_heads_upsample: number of heads of every attention of the decoder; 0: as in the encoder.
      conditions: what the network is conditioned on, such as Label(10); several are possible.
    """

    num_heads_upsample: Annotated[int, Range(0, 2**14)] = 0
    conditions: tuple[Condition, ...] = ()

    def decoder_heads(self, width):
        """Number of heads of an attention of the decoder."""
        return self.num_heads_upsample or self.heads(width)

    def check(self):
        """Raises UserError for levels or conditions that the network cannot have."""
        super().check()
        names = [each.name for each in self.conditions]
        if len(set(names)) < len(names):
            raise UserError(
                f"model.conditions names the arrays {', '.join(names)}: give each a name of its "
                "own, as in Vector(16, name='pose')."
            )
        if any(isinstance(each, Tokens) for each in self.conditions):
            raise UserError(
                "model.conditions has Tokens, which this network does not attend to: use a network "
                "with cross-attention."
            )

    def _head_counts(self):
        own = [("model.num_heads_upsample", self.num_heads_upsample)]
        return super()._head_counts() + (own if self.num_heads_upsample else [])


@settings(kind="classifier", section="model")
class ClassifierConfig(_Encoder):
    """ADM's classifier of noisy images: the UNet's encoder and a head.

    Attributes:
      label: the label that it predicts, such as Label(10).
      pool: the head: how features are pooled to logits.
    """

    label: Label = Label(2)
    pool: Literal["attention", "adaptive", "spatial", "spatial_v2"] = "attention"

    @property
    def conditions(self):
        """What is read of an example beside the image: the label."""
        return (self.label,)

    def check(self):
        """Raises UserError for a classifier of fewer than 2 classes."""
        super().check()
        if self.label.classes < 2:
            raise UserError("model.label.classes is 1: a classifier needs at least 2 classes.")


Network = UNetConfig | ClassifierConfig
