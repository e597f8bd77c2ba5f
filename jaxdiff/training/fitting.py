"""Checks that training can fit into memory, before anything is allocated."""

import math

import jax
import jax.numpy as jnp

from jaxdiff.errors import UserError
from jaxdiff.memory import device_memory, size_text
from jaxdiff.training.state import state_bytes


def check_fits(config, template, mesh, advice):
    """Raises UserError if even the least that a step takes is more than a device has.

    Counted are the state, the gradient, x of a batch with its noise, and the output of the
    network's first layer for a part of it. A step takes several times as much, so a run that passes
    may still exhaust memory.

    Args:
      config: the run's.
      template: a State of jax.ShapeDtypeStruct with shardings.
      mesh: the devices.
      advice: what to do about it, to end a sentence.
    """
    sizes = state_bytes(jax.tree.map(on_a_device, template))
    state = sum(sizes.values()) + sizes["parameters"]  # as large as the gradient
    training, shape = config.training, config.signature.shape
    samples = training.batch_size / mesh.size
    width = getattr(config.model, "channels", 0) * jnp.dtype(training.dtype).itemsize
    layer = samples / training.accumulate * math.prod(shape[:-1]) * width
    batch = 8 * samples * math.prod(shape) + layer  # x and noise, float32
    limit = device_memory()
    has = f"a device has {size_text(limit)}"
    if state > limit:
        raise UserError(
            f"The state of training takes {size_text(state)} on a device, and {has}: lower "
            "model.channels or model.channel_mult, or split the state over mesh.fsdp devices."
        )
    if state + batch > limit:
        raise UserError(
            f"Training takes more than {size_text(state + batch)} on a device, {size_text(state)} "
            f"for the state and {size_text(batch)} for a batch, and {has}: {advice}."
        )


def on_a_device(leaf):
    """The shape of one device's shard."""
    return jax.ShapeDtypeStruct(leaf.sharding.shard_shape(leaf.shape), leaf.dtype)
