"""Where random numbers come from, so that a sample depends on its seed and number alone.

Sample number n of seed s has the key fold_in(key(s), n). Everything drawn for that sample derives
from its key, a purpose and a step, whatever batch, device or process it is drawn on.
"""

import enum

import jax


class Purpose(enum.IntEnum):
    """What a number is drawn for. Values are part of what a seed means: never renumber them."""

    START = 0
    STEP = 1


def sample_keys(seed, numbers):
    """Keys [B] of the samples with these numbers [B]."""
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), numbers)


def normal(keys, purpose, step, shape):
    """Standard normal [B, *shape], float32, from each sample's key [B]."""

    def draw(key):
        key = jax.random.fold_in(jax.random.fold_in(key, purpose), step)
        return jax.random.normal(key, shape)

    return jax.vmap(draw)(keys)
