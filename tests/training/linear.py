"""A network and data that compile in a fraction of a second, as kinds of another project."""

import math
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxdiff.config import (
    ADM,
    DDPM,
    ClassifierConfig,
    Condition,
    Label,
    PixelCodec,
    Range,
    RunConfig,
    TrainingConfig,
    Vector,
    replaced,
    settings,
)
from jaxdiff.data.source import from_arrays
from jaxdiff.models.condition import Condition as Embedded

CLASSES = 3


@settings
class Stripes:
    """Images 4 x 4 of as many bright columns as the label says.

    Attributes:
      floats: store values in [-1, 1] instead of bytes.
    """

    floats: bool = False
    augment: str = "none"
    held_out: str = "test"
    workers: int = 0
    shape = (4, 4, 1)

    def open(self, split, conditions):
        random = np.random.default_rng(split == "test")
        label = np.arange(96, dtype=np.int32) % CLASSES
        x = random.integers(0, 100, (96, 4, 4, 1)).astype(np.uint8)
        bright = np.broadcast_to(np.arange(4) <= label[:, None, None], (96, 4, 4))
        x = np.where(bright[..., None], 255, x).astype(np.uint8)
        x = np.float32(x / 127.5 - 1) if self.floats else x
        return from_arrays(x, {"label": label} if conditions else {})


@settings
class LinearConfig:
    """Two linear layers; a third for each condition.

    Attributes:
      width: of what is between them.
      dropout: rate there.
    """

    width: Annotated[int, Range(1, 2**16)] = 1024
    dropout: float = 0.0
    conditions: tuple[Condition, ...] = (Label(CLASSES),)
    codec: PixelCodec = PixelCodec()

    def check_shape(self, shape):
        pass

    def build(self, signature, rngs):
        return Linear(self, signature, rngs)


class Linear(nnx.Module):
    def __init__(self, config, signature, rngs):
        self.out = (*signature.shape[:-1], signature.out_channels)
        width = config.width
        self.first = nnx.Linear(math.prod(signature.shape), width, rngs=rngs)
        self.time = nnx.Linear(1, width, rngs=rngs)
        self.label = nnx.Embed(16, width, rngs=rngs)
        self.others = nnx.List(
            nnx.Linear(math.prod(_shape(each, signature)), width, rngs=rngs)
            for each in config.conditions
            if not isinstance(each, Label)
        )
        self.conditions = config.conditions
        self.last = nnx.Linear(width, math.prod(self.out), rngs=rngs)
        if signature.uncertainty:
            self.head = nnx.Param(jnp.zeros(()))

    def embed(self, cond):
        layers, found = iter(self.others), []
        for each in self.conditions:
            value = cond[each.name]
            layer = self.label if isinstance(each, Label) else next(layers)
            found.append(layer(value if isinstance(each, Label) else value.reshape(len(value), -1)))
        return Embedded(vector=tuple(found))

    def null(self, cond):
        return jax.tree.map(jnp.zeros_like, self.embed(cond))

    def uncertainty(self, time):
        return self.head[...] * time

    def __call__(self, x, time, condition, dropout=None):
        h = self.first(x.reshape(len(x), -1)) + self.time(time[:, None] / 1000)
        h = nnx.silu(sum(condition.vector, h))
        if dropout is not None:
            keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - dropout.rate, h.shape[1:]))
            h = h * keep(dropout.keys) / (1 - dropout.rate)
        return self.last(h).reshape(len(x), *self.out)


def _shape(condition, signature):
    if isinstance(condition, Vector):
        return (condition.size,)
    return (*signature.shape[:-1], condition.channels)


@settings
class LinearClassifier(ClassifierConfig):
    """One linear layer, of the classes in `label`."""

    def check_shape(self, shape):
        pass

    def build(self, signature, rngs):
        class Module(nnx.Module):
            def __init__(self, classes):
                self.layer = nnx.Linear(math.prod(signature.shape), classes, rngs=rngs)

            def __call__(self, x, time, dropout=None):
                return self.layer(x.reshape(len(x), -1))

        return Module(self.label.classes)


def config(**overrides):
    """A run of 20 steps; overrides name fields as section__field, or whole sections."""
    base = RunConfig(
        data=Stripes(),
        model=LinearConfig(),
        diffusion=ADM(num_timesteps=20, condition_dropout=0.1),
        training=TrainingConfig(
            num_steps=20,
            batch_size=16,
            learning_rate=1e-3,
            warmup_steps=4,
            ema=0.995,
            log_every=5,
            checkpoint_every=10,
            snapshot_every=5,
            preview_every=1000,
        ),
        sampling=DDPM(steps=4),
    )
    return replaced(base, {name.replace("__", "."): v for name, v in overrides.items()})


def batch(number, size=16):
    """Random images with labels, the same for a number."""
    random = np.random.RandomState(number)
    return {
        "x": random.randint(0, 256, (size, 4, 4, 1)).astype(np.uint8),
        "cond": {"label": random.randint(0, CLASSES, size).astype(np.int32)},
    }
