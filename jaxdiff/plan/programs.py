"""The programs that training and sampling compile, with shapes in place of arrays."""

import dataclasses
from typing import Any

import jax
import numpy as np

from jaxdiff.config import Label
from jaxdiff.parallel.mesh import batch_sharding, placed, replicated
from jaxdiff.samplers.loop import segments
from jaxdiff.sampling.pipeline import _advance, _begin, _finish
from jaxdiff.training.compiled import (
    condition_shapes,
    jitted_step,
    state_template,
    step_arguments,
)
from jaxdiff.training.task import Task


@dataclasses.dataclass(frozen=True)
class Program:
    """A jitted function with what it is called with.

    Attributes:
      name: what it does.
      function: jitted.
      arguments: shapes with shardings, and static values.
      turns: how often its loop turns in a batch, whose bounds the compiler does not know: costs of
        one turn times this are those of a batch.
    """

    name: str
    function: Any
    arguments: tuple
    turns: int = 1

    def lower(self):
        """What the compiler compiles."""
        return self.function.lower(*self.arguments)

    def jaxpr(self):
        """The program as it is traced, before it is split over devices."""
        return self.function.trace(*self.arguments).jaxpr


def training(config, mesh):
    """The Programs of a training step: one.

    Args:
      config: a RunConfig; data_std of EDM's process is not 0.
      mesh: of devices, that may be descriptions.
    """
    task = Task.of(config, mesh)
    template = state_template(task, mesh)
    step = jitted_step(task, template, mesh)
    return (Program("training step", step, step_arguments(task, template, mesh)),)


def sampling(job):
    """The Programs of a batch of a sampling job: what it begins with, its steps, and its end.

    Args:
      job: a jaxdiff.sampling.job.Job, whose pipeline's mesh may be of descriptions.
    """
    pipeline, known = job.pipeline, job.method.params

    def whole(tree):
        return placed(tree, jax.tree.map(lambda _: replicated(pipeline.mesh), tree))

    def split(tree):
        return placed(tree, jax.tree.map(lambda _: batch_sharding(pipeline.mesh), tree))

    # Numbers are arguments too: the compiler must not know them.
    given = (job.grid, job.grid.levels[0], known, job.method.cads, job.seed, 0)
    grid, level, guidance, cads, seed, bound = whole(jax.eval_shape(lambda *values: values, *given))
    params, size = whole(parameters(job)), job.batch_size
    numbers = jax.ShapeDtypeStruct((size,), np.int32)
    cond = {n: jax.ShapeDtypeStruct((size, *a.shape[1:]), a.dtype) for n, a in job.cond.items()}
    batch = (params, seed, split(numbers), split(cond))
    first = (pipeline, *batch, level, guidance, None)
    found = [Program("first noise and conditions", _begin, first)]
    values, conditions = split(_begin.eval_shape(*first))
    turns = {}
    for part in segments(pipeline.sampler, known.weights, known.scales):
        which = (part.sampler, part.active, part.classifier_active)
        turns[which] = turns.get(which, 0) + part.stop - part.start
    for which, count in turns.items():
        steps = (pipeline, which, *batch, grid, guidance, cads, (bound,) * 2, conditions, values)
        found.append(Program(_named(which, job), _advance, steps, count))
    found.append(Program("images", _finish, (pipeline, values[0], False)))
    return tuple(found)


def parameters(job):
    """Shapes of the Params of a sampling job."""
    return job.pipeline.shapes


def _named(which, job):
    sampler, active, classifier_active = which
    references = [job.pipeline.references[r] for r in active]
    parts = [f"{sampler.evaluations} of {type(sampler).__name__.removesuffix('Sampler')}"]
    parts += [
        f"{each.condition.value} of {'itself' if each.guide is None else f'guide {each.guide + 1}'}"
        for each in references
    ]
    return "a step, evaluations " + ", ".join(parts + ["classifier"] * classifier_active)


def zero_conditions(config):
    """Values of the conditions that a sampling request must give: all but labels, zeros."""
    labels = {each.name for each in config.model.conditions if isinstance(each, Label)}
    return {
        name: np.zeros(shape.shape[1:], shape.dtype)
        for name, shape in condition_shapes(config, 1).items()
        if name not in labels
    }
