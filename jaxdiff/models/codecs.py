"""Codecs: from the images of a dataset to what a network takes, x, and back."""

import dataclasses

import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Pixels:
    """Pixels themselves: x = value / 127.5 - 1."""

    def encode(self, images, key=None):
        """Images uint8 [B, H, W, C] as float32 in [-1, 1]; data that are float already stay.

        Args:
          images: JAX or NumPy arrays.
          key: of codecs that draw; unused.
        """
        del key
        return images.astype("float32") / 127.5 - 1 if images.dtype == jnp.uint8 else images

    def decode(self, x):
        """The images uint8 [B, H, W, C] of x float32, clipped to [-1, 1] and rounded."""
        return jnp.round((jnp.clip(x, -1, 1) + 1) * 127.5).astype(jnp.uint8)
