"""Networks at the jit boundary: a static definition, and parameters as a plain nested dict.

Flax NNX defines the networks, and is used in this layer alone. A module is split once; what
`jax.jit`, optimizers, averages and checkpoints see are dicts of arrays keyed by strings.

A module that denoises has

    __call__(x, time, condition=Condition(), dropout=None) -> output
    embed(cond) -> Condition              cond is {name: array [B, ...]} of its conditions
    null(cond) -> Condition               the null condition, of as many samples
    uncertainty(time) -> [B]              where the signature asks for it
    constrain(params) -> params           a static method, if the optimizer shall see other weights

and a classifier has __call__(x, time, dropout=None) -> logits and features(x, time).
"""

import dataclasses
from functools import cached_property
from typing import Any

import jax
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxdiff.config import ClassifierConfig, Signature, UNetConfig
from jaxdiff.models.classifier import Classifier
from jaxdiff.models.initializers import Drawn, Recorded
from jaxdiff.models.unet import UNet

MODULES = {UNetConfig: UNet, ClassifierConfig: Classifier}


@dataclasses.dataclass(frozen=True)
class Network:
    """A network without its parameters.

    Attributes:
      config: its settings; a class that is not in MODULES has `build(signature, rngs)`.
      signature: what the run asks of it: the shape of its input, its output's channels and so on.
    """

    config: Any
    signature: Signature

    def init(self, key):
        """Initial parameters: a nested dict of float32 arrays, keyed by strings."""
        rngs = Drawn(key, self._abstract[1]) if self._is_own else nnx.Rngs(params=key)
        state = nnx.state(self._build(rngs), nnx.Param)
        return unflatten_dict({_names(path): v[...] for path, v in nnx.to_flat_state(state)})

    @cached_property
    def shapes(self):
        """The parameters' shapes and dtypes, a nested dict of ShapeDtypeStruct; takes no memory."""
        return jax.eval_shape(self.init, jax.random.key(0))

    def apply(self, params, x, time, *args, **kwargs):
        """The network's output at x [B, ...] and time [B].

        A denoiser takes a Condition and a Dropout or None besides, a classifier a Dropout alone.
        """
        return self._module(params)(x, time, *args, **kwargs)

    def embed(self, params, cond):
        """The Condition of cond, {name: array [B, ...]}."""
        return self._module(params).embed(cond)

    def null(self, params, cond):
        """The null Condition, of as many samples as cond and of its shapes."""
        return self._module(params).null(cond)

    def features(self, params, x, time):
        """A classifier's last hidden layer: [B, C] float32."""
        return self._module(params).features(x, time)

    def uncertainty(self, params, time):
        """U [B] of a network that predicts its own error, from time [B]: ln(sigma) / 4."""
        return self._module(params).uncertainty(time)

    def constrain(self, params):
        """Parameters as every training step begins with them, so that they are what it updates."""
        constrain = getattr(self._split[0], "constrain", None)
        return params if constrain is None else constrain(params)

    @property
    def _is_own(self):
        return type(self.config) in MODULES

    def _build(self, rngs):
        if self._is_own:
            return MODULES[type(self.config)](self.config, self.signature, rngs=rngs)
        return self.config.build(self.signature, rngs)

    @cached_property
    def _abstract(self):
        """(the module with shapes in place of arrays, what is drawn for it)."""
        recorded = Recorded()

        def build():
            return self._build(recorded if self._is_own else nnx.Rngs(params=0))

        return nnx.eval_shape(build), recorded.draws

    @cached_property
    def _split(self):
        module, _ = self._abstract
        graph, state = nnx.split(module)
        return type(module), graph, [path for path, _ in nnx.to_flat_state(state)]

    def _module(self, params):
        _, graph, paths = self._split
        flat = flatten_dict(params)
        return nnx.merge(graph, nnx.from_flat_state([(path, flat[_names(path)]) for path in paths]))


def _names(path):
    # Lists of modules have integer keys, which a checkpoint would give back as strings.
    return tuple(str(part) for part in path)
