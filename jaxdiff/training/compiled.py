"""The training step as it is compiled: its arguments, and how they are sharded."""

import jax
import jax.numpy as jnp

from jaxdiff.config import DataConfig, Image, Label, Tokens, Vector, replaced
from jaxdiff.counts import flops_by_kind
from jaxdiff.parallel.mesh import batch_sharding, parameter_sharding, placed, replicated
from jaxdiff.training.step import summing_step, zero_sums
from jaxdiff.training.task import Task


def state_template(task, mesh):
    """A State of jax.ShapeDtypeStruct, sharded over a mesh."""
    shapes = jax.eval_shape(task.init)
    return placed(shapes, parameter_sharding(mesh, shapes))


def jitted_step(task, template, mesh):
    """(state, sums, batch) -> (state, sums); the state is donated, and stays sharded as it is.

    Args:
      task: a Task.
      template: its State, from `state_template`.
      mesh: the devices.
    """
    shardings = jax.tree.map(lambda leaf: leaf.sharding, template)
    return jax.jit(
        summing_step(task), donate_argnums=0, out_shardings=(shardings, replicated(mesh))
    )


def step_arguments(task, template, mesh):
    """Shapes of what `jitted_step` takes: (state, sums, batch)."""
    sums = jax.eval_shape(lambda: zero_sums(task.objective.terms))
    batch = batch_shapes(task.config, task.config.training.batch_size)
    return (
        template,
        placed(sums, jax.tree.map(lambda _: replicated(mesh), sums)),
        placed(batch, jax.tree.map(lambda _: batch_sharding(mesh), batch)),
    )


def batch_shapes(config, size):
    """Shapes of a batch as the data pipeline makes them: {"x": ..., "cond": {name: ...}}."""
    # Images are bytes; data of other kinds are numbers.
    dtype = jnp.uint8 if isinstance(config.data, DataConfig) else jnp.float32
    x = jax.ShapeDtypeStruct((size, *config.data.shape), dtype)
    return {"x": x, "cond": condition_shapes(config, size)}


def condition_shapes(config, size):
    """Shapes of the conditions of `size` samples: {name: ...}."""
    shapes = {}
    for each in config.model.conditions:
        shape, dtype = (), jnp.int32
        if isinstance(each, Vector):
            shape, dtype = (each.size,), jnp.float32
        elif isinstance(each, Image):
            side = getattr(config.data, "low_res_size", 0) or config.signature.shape[0]
            shape, dtype = (side, side, each.channels), jnp.float32
        elif isinstance(each, Tokens):
            shape, dtype = (each.length, each.width), jnp.float32
            shapes["mask"] = jax.ShapeDtypeStruct((size, each.length), jnp.bool_)
        elif not isinstance(each, Label):
            raise TypeError(f"The shape of a condition {type(each).__name__} is not known.")
        shapes[each.name] = jax.ShapeDtypeStruct((size, *shape), dtype)
    return shapes


def step_flops(config, example):
    """Operations of a training step's products, of all devices; None where they are not countable.

    Those of the mathematics: without what remat computes again; see `jaxdiff.counts`.

    Args:
      config: a RunConfig.
      example: a batch of one, {"x": ..., "cond": {name: ...}}.
    """
    alone = {"mesh.fsdp": 1, "training.accumulate": 1, "training.remat": False}
    task, size = Task.of(replaced(config, alone)), config.training.batch_size
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype), example)
    sums = jax.eval_shape(lambda: zero_sums(task.objective.terms))
    try:
        jaxpr = jax.make_jaxpr(summing_step(task))(jax.eval_shape(task.init), sums, batch)
        return float(sum(flops_by_kind(jaxpr).values()))
    except NotImplementedError:  # a network from elsewhere may call what is not known
        return None
