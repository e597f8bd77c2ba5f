"""What a network is conditioned on, as its blocks take it; and dropout, which is no condition."""

import dataclasses
from typing import Any

import jax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Condition:
    """The embedded conditions of a batch.

    Attributes:
      vector: [B, E] float32 or a tuple of such, one for each label and vector; a network adds them
        all to its embedding of time.
      image: [B, h, w, c] float32 or a tuple of such, of any height and width; a network resizes
        them to its input and concatenates them with it.
      tokens: [B, L, E] float32, which blocks with attention attend to.
      mask: [B, L] bool, True for the tokens that are there; None: all are.
    """

    vector: Any = None
    image: Any = None
    tokens: jax.Array | None = None
    mask: jax.Array | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Dropout:
    """Dropout of a network, in training or in sampling.

    Attributes:
      rate: share of the activations that become 0, in [0, 1); a Python float, static.
      keys: [B] random keys, one for each sample.
    """

    rate: float = dataclasses.field(metadata={"static": True})
    keys: jax.Array
