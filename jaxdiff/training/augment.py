"""Changes of images that keep what they show, drawn and made on the device, in the jitted step."""

import jax
import jax.numpy as jnp

MIN_CROP = 0.8


def flip(key, x):
    """Mirrors half of the images [B, H, W, C] left to right."""
    chosen = jax.random.bernoulli(key, 0.5, (x.shape[0], 1, 1, 1))
    return jnp.where(chosen, x[:, :, ::-1], x)


def crop(key, x):
    """Cuts a square of .8 to 1 of the side out of each image, anywhere, and enlarges it back.

    ADM crops its classifiers' training images so, before they are scaled down; here they have
    been, so that an enlarged crop is interpolated (linearly).
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

    return jax.vmap(enlarge)(x, share, place)


def area_downsample(x, size):
    """The means of the squares that make up an image of `size`: [B, H, W, C] -> [B, s, s, C]."""
    batch, height, width, channels = x.shape
    squares = (batch, size, height // size, size, width // size, channels)
    return x.reshape(squares).mean((2, 4))
