"""Keys of random numbers, derived so that a sample depends on its seed and number alone.

Sample number n of seed s has the key fold_in(key(s), n). Everything drawn for that sample derives
from its key, a purpose and a step, whatever batch, device or process it is drawn on.
"""

import enum

import jax


class Purpose(enum.IntEnum):
    """The purpose of a draw. Values are part of what a seed means: never renumber them."""

    START = 0  # unit noise; and, with a 1 added, the clean sample that it is added to
    STEP = 1  # the sampler's noise: of an ancestral step, of DDIM's eta, of churn
    CADS_MAIN = 2
    CADS_REFERENCE = 3
    RANDOM_LABEL = 4
    DROPOUT = 5  # masks of each network that is run with dropout, numbered by its place


def sample_keys(seed, numbers):
    """Keys [B] of the samples with these numbers [B]."""
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), numbers)


def derived(keys, purpose, *numbers):
    """Each sample's key [B] for a purpose, a step, and further numbers of the draw."""

    def derive(key):
        for number in (purpose, *numbers):
            key = jax.random.fold_in(key, number)
        return key

    return jax.vmap(derive)(keys)


def normal(keys, shape):
    """Standard normal [B, *shape], float32, from derived keys [B]."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
