"""Bringing images to the size, colours and range that a network takes. NumPy."""

import numpy as np
from PIL import Image


def fit(image, size, channels, how="crop"):
    """Brings an image to a size, and converts between grey and colour.

    `crop` is what ADM does (Dhariwal & Nichol 2021, arXiv:2105.05233, their data preparation): it
    halves with a box filter while the shorter side is at least twice `size`, then scales the
    shorter side to `size` bicubically and crops the middle.
    `pad` resamples nothing: a shorter side is framed with black, the same on both ends (a pixel
    more at the bottom or right where the difference is odd), and a longer one is cropped to its
    middle.
    An image that fits already is returned as it is.

    Args:
      image: uint8 [H, W, C] with C 1 or 3.
      size: height and width wanted.
      channels: 1 or 3.
      how: `crop` or `pad`.

    Returns:
      uint8 [size, size, channels].
    """
    if image.shape == (size, size, channels):
        return image
    picture = _picture(image, channels)
    if how == "crop":
        picture = _scaled(picture, size)
    # Towards zero, so that an odd pixel goes right. What is outside becomes black.
    left, top = (int((side - size) / 2) for side in picture.size)
    picture = picture.crop((left, top, left + size, top + size))
    return np.asarray(picture).reshape(size, size, channels)


def convert(image, channels):
    """Converts an image between grey and colour: uint8 [H, W, C] to [H, W, channels]."""
    if image.shape[-1] == channels:
        return image
    return np.asarray(_picture(image, channels)).reshape(*image.shape[:2], channels)


def _picture(image, channels):
    """uint8 [H, W, C] as a PIL image, grey or in colour."""
    picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
    return picture.convert("L" if channels == 1 else "RGB")


def _scaled(picture, size):
    """A PIL image whose shorter side is `size`."""
    while min(picture.size) >= 2 * size:
        width, height = picture.size
        picture = picture.resize((width // 2, height // 2), Image.Resampling.BOX)
    if min(picture.size) == size:
        return picture
    scale = size / min(picture.size)
    shape = tuple(max(size, round(side * scale)) for side in picture.size)
    return picture.resize(shape, Image.Resampling.BICUBIC)


def area_means(images, size):
    """Images at a lower resolution, the means of squares of pixels, in [-1, 1].

    Args:
      images: uint8 [N, H, W, C]; H and W are multiples of `size`.
      size: height and width wanted.

    Returns:
      float32 [N, size, size, C].
    """
    count, height, width, channels = images.shape
    squares = images.reshape(count, size, height // size, size, width // size, channels)
    return squares.mean((2, 4), dtype=np.float32) / np.float32(127.5) - 1


def to_float(images):
    """uint8 0 .. 255 to float32 -1 .. 1. Data that are not bytes stay as they are."""
    if images.dtype != np.uint8:
        return images
    return images.astype("float32") / 127.5 - 1
