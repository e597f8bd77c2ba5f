"""Making an image the size and colour that a network wants."""

import numpy as np
from PIL import Image


def fit(image, size, channels):
    """Centre-crops and resizes an image as ADM does, and converts between grey and colour.

    Halves with a box filter while the shorter side is at least twice `size`, then scales the
    shorter side to `size` bicubically and crops the middle (Dhariwal & Nichol 2021,
    arXiv:2105.05233, their data preparation). An image that fits already is returned as it is.

    Args:
      image: uint8 [H, W, C] with C 1 or 3.
      size: height and width wanted.
      channels: 1 or 3.

    Returns:
      uint8 [size, size, channels].
    """
    if image.shape == (size, size, channels):
        return image
    picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
    picture = picture.convert("L" if channels == 1 else "RGB")
    while min(picture.size) >= 2 * size:
        width, height = picture.size
        picture = picture.resize((width // 2, height // 2), Image.Resampling.BOX)
    if min(picture.size) != size:
        scale = size / min(picture.size)
        shape = tuple(max(size, round(side * scale)) for side in picture.size)
        picture = picture.resize(shape, Image.Resampling.BICUBIC)
    left, top = ((side - size) // 2 for side in picture.size)
    picture = picture.crop((left, top, left + size, top + size))
    return np.asarray(picture).reshape(size, size, channels)


def to_float(images):
    """uint8 0 .. 255 to float32 -1 .. 1; NumPy or JAX arrays. Data that are not bytes stay."""
    if images.dtype != np.uint8:
        return images
    return images.astype("float32") / 127.5 - 1


def to_uint8(images):
    """Float -1 .. 1 (clipped) to uint8 0 .. 255, rounded to the nearest; NumPy."""
    return np.round((np.clip(images, -1, 1) + 1) * 127.5).astype(np.uint8)
