"""Embedders of labels and vectors: parts of a network that make its Condition.

Each has the methods `embed` and `null`, from {name: array [B, ...]} to a list of [B, E] float32.
"""

from itertools import accumulate

import jax.numpy as jnp
from flax import nnx

from jaxdiff.models.initializers import normal
from jaxdiff.models.layers import Linear


class LabelTable(nnx.Embed):
    """The embeddings of all labels of a network: one table [rows, E], drawn from N(0, 1).

    A label of K classes has the rows 0 .. K - 1, and row K for its null condition if the network
    has one; those of the next label follow.
    """

    def __init__(self, labels, width, *, null, rngs):
        ends = list(accumulate(label.classes + null for label in labels))

        def draw(key, shape, dtype):
            del dtype
            return normal(key, shape, 1.0)

        super().__init__(ends[-1], width, embedding_init=draw, rngs=rngs)
        self.names = tuple(label.name for label in labels)
        self.starts = (0, *ends[:-1])
        self.nulls = tuple(end - 1 for end in ends)

    def embed(self, cond):
        """Of labels [B] int32."""
        return [self(n + cond[name]) for name, n in zip(self.names, self.starts, strict=True)]

    def null(self, cond):
        """The learned null condition of each label."""
        rows = zip(self.names, self.nulls, strict=True)
        return [self(jnp.full_like(cond[name], row)) for name, row in rows]


class VectorEmbedder(nnx.Module):
    """Linear(V -> E), SiLU, Linear(E -> E) of a vector; a learned vector [E] is its null."""

    def __init__(self, condition, width, *, null, rngs):
        common = {"dtype": jnp.float32, "rngs": rngs}
        self.name = condition.name
        self.hidden = Linear(condition.size, width, **common)
        self.out = Linear(width, width, **common)
        self.unknown = nnx.Param(jnp.zeros(width)) if null else None

    def embed(self, cond):
        """Of a vector [B, V] float32."""
        return [self.out(nnx.silu(self.hidden(cond[self.name])))]

    def null(self, cond):
        """The learned null condition."""
        null = self.unknown[...]
        return [jnp.broadcast_to(null, (len(cond[self.name]), *null.shape))]
