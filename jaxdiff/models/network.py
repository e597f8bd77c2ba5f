"""Networks at the jit boundary: a static definition, and parameters as a plain nested dict.

Flax NNX defines the networks and nothing outside this layer knows it. A module is split once;
what `jax.jit`, optimizers, averages and checkpoints see are dicts of arrays keyed by strings.
"""

import dataclasses
from collections.abc import Callable
from functools import cached_property
from typing import Any

import jax
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict


@dataclasses.dataclass(frozen=True)
class Network:
    """A network without its parameters.

    Attributes:
      build: nnx.Rngs -> nnx.Module with a method `__call__`, and `embed` if it takes labels.
      spec: the specification it was built from.
      constrain: params -> params, which every training step begins with, so that the optimizer
        updates constrained parameters.
      drop_rate: of dropout when it is sampled, in [0, 1); training has a rate of its own.
    """

    build: Callable[[nnx.Rngs], nnx.Module]
    spec: object
    constrain: Callable[[Any], Any] = lambda params: params
    drop_rate: float = 0.0

    def init(self, key):
        """Fresh parameters: a nested dict of float32 arrays, keyed by strings."""
        state = nnx.state(self.build(nnx.Rngs(params=key)), nnx.Param)
        return unflatten_dict({_names(path): v[...] for path, v in nnx.to_flat_state(state)})

    @cached_property
    def shapes(self):
        """The parameters' shapes and dtypes, a nested dict of ShapeDtypeStruct; takes no memory."""
        return jax.eval_shape(self.init, jax.random.key(0))

    def apply(self, params, x, time, *args, **kwargs):
        """The network's output; see its module's `__call__` for shapes and further arguments."""
        return self._module(params)(x, time, *args, **kwargs)

    def features(self, params, x, time):
        """A classifier's last hidden layer."""
        return self._module(params).features(x, time)

    def embed(self, params, labels):
        """Embeds labels [B] once, so that guidance can work on the embedding."""
        return self._module(params).embed(labels)

    def uncertainty(self, params, time):
        """U [B] of a network that has the head, from ln(sigma) / 4 [B]; training alone asks."""
        return self._module(params).uncertainty(time)

    @cached_property
    def _split(self):
        abstract = nnx.eval_shape(lambda: self.build(nnx.Rngs(params=jax.random.key(0))))
        graph, state = nnx.split(abstract)
        return graph, [path for path, _ in nnx.to_flat_state(state)]

    def _module(self, params):
        graph, paths = self._split
        flat = flatten_dict(params)
        return nnx.merge(graph, nnx.from_flat_state([(path, flat[_names(path)]) for path in paths]))


def _names(path):
    # Lists of modules have integer keys, which a checkpoint would give back as strings.
    return tuple(str(part) for part in path)
