"""What a network is conditioned on: the arrays of an example's `cond`, by name."""

from typing import Annotated

from jaxdiff.config.fields import Range, settings


@settings(kind="label", section="condition", positional=True)
class Label:
    """A class label: int32 [B] in `cond`, embedded and added to the time embedding.

    Attributes:
      classes: number of classes; labels are 0 to classes - 1.
      name: name of the array in `cond`.
    """

    classes: Annotated[int, Range(1, 2**24)]
    name: str = "label"


@settings(kind="vector", section="condition", positional=True)
class Vector:
    """A vector of features: float32 [B, size] in `cond`, embedded and added to the time embedding.

    Attributes:
      size: number of features.
      name: name of the array in `cond`.
    """

    size: Annotated[int, Range(1, 2**20)]
    name: str = "vector"


@settings(kind="image", section="condition", positional=True)
class Image:
    """A map aligned with the sample: float32 [B, h, w, channels] in `cond`, values in [-1, 1].

    It is resized to the sample (bilinear) and concatenated with it; super-resolution is this.

    Attributes:
      channels: number of channels of the map.
      name: name of the array in `cond`.
    """

    channels: Annotated[int, Range(1, 2**10)]
    name: str = "image"


@settings(kind="tokens", section="condition", positional=True)
class Tokens:
    """A sequence: float32 [B, length, width] in `cond`, and the array `mask` [B, length] bool.

    Blocks that have attention attend to it, which the networks of this version do not yet.

    Attributes:
      length: number of tokens of the longest sequence.
      width: number of values of a token.
      name: name of the array in `cond`.
    """

    length: Annotated[int, Range(1, 2**20)]
    width: Annotated[int, Range(1, 2**20)]
    name: str = "tokens"


Condition = Label | Vector | Image | Tokens


def label_of(conditions):
    """The first Label among conditions, or None."""
    return next((each for each in conditions if isinstance(each, Label)), None)
