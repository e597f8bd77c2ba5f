"""Memory of one device by what it is for."""

import functools

import jax

from jaxdiff.config import replaced
from jaxdiff.training.compiled import condition_shapes
from jaxdiff.training.fitting import on_a_device
from jaxdiff.training.state import state_bytes
from jaxdiff.training.task import Task


def size_of(tree):
    """Bytes of arrays, or of their shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def of_training(config, template, devices):
    """{kind: bytes on a device} that the plain program tells of a training step.

    The compiler needs more: what it computes again, copies, pads, or gathers of what is split.

    Args:
      config: a RunConfig.
      template: a State of shapes with shardings.
      devices: how many there are.
    """
    state = state_bytes(jax.tree.map(on_a_device, template))
    return {
        "parameters": state["parameters"],
        "optimizer": state["optimizer"],
        "averages": state["EMA"],
        "activations": kept_bytes(replaced(config, {"mesh.fsdp": 1})) // devices,
        "gradient": state["parameters"],
    }


@functools.cache
def kept_bytes(config):
    """Bytes kept between the forward and the backward pass of one part of a batch; all devices."""
    task, training = Task.of(config), config.training

    def backward(params, examples):
        return jax.vjp(lambda p: task.objective.losses(p, examples)[0]["loss"].mean(), params)[1]

    shapes = examples(task, training.batch_size // training.accumulate)
    kept = size_of(jax.eval_shape(backward, task.network.shapes, shapes))
    return max(0, kept - size_of(task.network.shapes))


def examples(task, size):
    """Shapes of what an objective takes."""
    config, key = task.config, jax.random.key(0)
    shape = (size, *task.network.signature.shape)
    found = {
        "x0": jax.ShapeDtypeStruct(shape, "float32"),
        "cond": condition_shapes(config, size),
        "draws": jax.eval_shape(lambda: task.process.draw(key, shape)),
        "dropout": jax.eval_shape(lambda: jax.random.split(key, size)),
    }
    if config.diffusion.condition_dropout:
        found["drop"] = jax.ShapeDtypeStruct((size,), "bool")
    return found


def compiled(stats, known):
    """{kind: bytes on a device} of a compiled program.

    Args:
      stats: the fields of its `memory_analysis()` that end in _size_in_bytes, by their names'
        beginnings.
      known: {kind: bytes} of what is known to be among its arguments and temporaries.
    """
    held = {k: v for k, v in known.items() if k not in ("activations", "gradient")}
    activations = min(known.get("activations", 0), stats["temp"])
    new = max(0, stats["output"] - stats["alias"])
    return {
        **held,
        "batch and padding": max(0, stats["argument"] - sum(held.values())),
        "activations": activations,
        "temporaries": stats["temp"] - activations,
        "results": new,
        "program": stats["generated_code"],
    }
