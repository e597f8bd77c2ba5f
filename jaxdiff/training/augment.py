"""Random flips and crops of images, drawn and applied on the device, in the jitted step."""

import jax
import jax.numpy as jnp

MIN_CROP = 0.8


def augmented(kind, key, images):
    """Images with the changes that `data.augment` names, drawn for each sample.

    Args:
      kind: `none`, `flip` or `crop_flip`.
      key: of the batch.
      images: a list of arrays [B, H, W, C], whose sizes may differ: a sample and its maps, which
        are all changed in the same way.

    Returns:
      The list of changed arrays, of the same types.
    """
    flip_key, crop_key = jax.random.split(key)
    if kind == "crop_flip":
        images = [crop(crop_key, each) for each in images]
    if kind in ("flip", "crop_flip"):
        images = [flip(flip_key, each) for each in images]
    return images


def flip(key, x):
    """Mirrors half of the images [B, H, W, C] left to right."""
    chosen = jax.random.bernoulli(key, 0.5, (x.shape[0], 1, 1, 1))
    return jnp.where(chosen, x[:, :, ::-1], x)


def crop(key, x):
    """Cuts a square of .8 to 1 of the side out of each image, anywhere, and enlarges it back.

    ADM crops its classifiers' training images so before they are scaled down. Here they are scaled
    down already, so an enlarged crop is interpolated (linearly).
    """
    size_key, place_key = jax.random.split(key)
    batch, height, width, _ = x.shape
    share = jax.random.uniform(size_key, (batch,), minval=MIN_CROP, maxval=1.0)
    place = jax.random.uniform(place_key, (batch, 2)) * (1 - share)[:, None]

    def enlarge(image, share, place):
        return jax.image.scale_and_translate(
            image,
            image.shape,
            (0, 1),
            jnp.full(2, 1 / share),
            -place * jnp.array([height, width]) / share,
            method="linear",
        )

    cropped = jax.vmap(enlarge)(x.astype(jnp.float32), share, place)
    return jnp.round(cropped).astype(x.dtype) if x.dtype == jnp.uint8 else cropped
