"""Runs of a smooth, known course of parameters, whose averages are computed and not trained."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from jaxdiff.checkpoints.checkpointer import Checkpointer
from jaxdiff.checkpoints.power_ema import gamma, profile_name
from jaxdiff.checkpoints.run import Run
from jaxdiff.parallel.mesh import parameter_sharding, placed
from tests import tiny

STEPS = 400
TRACKED = (0.05, 0.1)


def average(length, step):
    """The average of this length at a step: a tree of float64 NumPy arrays."""
    t = np.arange(step + 1) / STEPS
    weights = np.diff((t / t[-1]) ** (gamma(length) + 1))
    course = np.stack([np.ones(step), t[1:], np.sin(20 * t[1:]), np.cos(50 * t[1:])])
    parts = weights @ course.T
    random = np.random.RandomState(0)

    def leaf(shape):
        return np.tensordot(parts, random.standard_normal((len(parts), *shape)), 1)

    return {"layer": {"kernel": leaf((128, 256))}, "bias": leaf((7,))}


def make_run(folder, every, dtype="float32", lengths=TRACKED, until=STEPS):
    """A run with snapshots of the averages."""
    run = Run(epath.Path(folder))
    run.write_config(tiny.config(training__power_ema=lengths))
    add_snapshots(run, range(every, until + 1, every), dtype, lengths)
    return run


def add_snapshots(run, steps, dtype="float32", lengths=TRACKED, average=average):
    """Writes snapshots at some steps, as training does."""
    names = [profile_name(length) for length in lengths]
    with contextlib.closing(Checkpointer(run.snapshots)) as snapshots:
        for step in steps:
            ema = {
                name: jax.tree.map(lambda x: jnp.asarray(x, dtype), average(length, step))
                for name, length in zip(names, lengths, strict=True)
            }
            snapshots.save(step, {"ema": ema}, {"ema": names, "dtype": dtype})


def shapes():
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, "float32"), average(0.1, 2))


def template(mesh):
    return placed(shapes(), parameter_sharding(mesh, shapes()))


def distance(got, expected):
    """Root mean square of the differences of two trees."""
    squares = jax.tree.map(
        lambda a, b: np.mean((np.asarray(a, np.float64) - b) ** 2), got, expected
    )
    return float(np.sqrt(np.mean(jax.tree.leaves(squares))))
