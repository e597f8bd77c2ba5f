"""The training loop, top to bottom.

What happens after a step happens in this order:

1. metrics     the sums of the interval before this one are read, so that nothing waits
2. good?       before anything is kept, the state is asked for its first non-finite step
3. snapshot    the EMA, for ever
4. checkpoint  all that it takes to go on
5. preview     a picture of what the EMA has learned
"""

import time

import jax
import numpy as np

from jaxdiff import build
from jaxdiff import config as config_lib
from jaxdiff.checkpoints.run import KEEP_CHECKPOINTS
from jaxdiff.checkpoints.store import Store, complete_steps
from jaxdiff.data.images import to_uint8
from jaxdiff.data.pipeline import batches
from jaxdiff.data.source import open_source
from jaxdiff.errors import UserError
from jaxdiff.parallel import processes
from jaxdiff.parallel.mesh import (
    check_batch_size,
    make_mesh,
    parameter_sharding,
    placed,
    to_devices,
)
from jaxdiff.sampling import pictures
from jaxdiff.sampling.generate import Generator
from jaxdiff.training import folder
from jaxdiff.training.interrupt import Interrupt
from jaxdiff.training.optimizer import make_optimizer
from jaxdiff.training.report import Writer, describe, progress_bar
from jaxdiff.training.state import State, init_state
from jaxdiff.training.step import make_step, means, zero_sums

PREVIEW_ROWS = 6


def train(config, workdir):
    """Trains a run to `training.num_steps`, continuing it if the folder holds it already.

    Args:
      config: see `jaxdiff.config.base`.
      workdir: the run's folder.

    Raises:
      UserError: for a config, folder or data set that cannot be used, and when the loss is no
        longer finite.
    """
    config_lib.validate(config)
    training = config.training
    mesh = make_mesh(config.mesh.fsdp)
    check_batch_size(training.batch_size, mesh, training.accumulate)
    network, process = build.network(config), build.process(config)
    preview = Preview(config, network, process, mesh)
    source = open_source(
        config.data.name,
        "train",
        image_size=config.data.image_size,
        channels=config.data.channels,
        num_classes=config.data.num_classes,
    ).in_memory()
    run = folder.claim(workdir, config)

    optimizer = make_optimizer(training)
    profiles = [str(training.ema)]

    def init():
        return init_state(network, optimizer, profiles, jax.random.key(config.seed))

    shapes = jax.eval_shape(init)
    shardings = parameter_sharding(mesh, shapes)
    template = placed(shapes, shardings)
    describe(mesh, template)

    found = folder.restore(run, template.items())
    if found:
        state, first = State.from_items(found[0]), found[1]["batch"]
    else:
        state, first = jax.jit(init, out_shardings=shardings)(), 0
    step = jax.jit(
        make_step(network, process, optimizer, config),
        donate_argnums=0,
        out_shardings=(shardings, None),
    )
    zeros = zero_sums(process.terms)
    data = batches(
        source, training.batch_size, config.seed, first_batch=first, workers=config.data.workers
    )
    checkpoints, snapshots = Store(run.checkpoints, KEEP_CHECKPOINTS), Store(run.snapshots)
    checkpoints.set_aside(after=first)
    if processes.is_first():
        print(f"{'Continuing' if found else 'Training'} from step {first} of {training.num_steps}.")

    writer = Writer(run.tensorboard, first)
    bar = progress_bar(training.num_steps, first)
    metrics = Metrics(writer, bar, training.batch_size)
    sums, number, stopping = zeros, first, False
    with Interrupt() as interrupt:
        while number < training.num_steps and not stopping:
            state, sums = step(state, sums, to_devices(next(data), mesh))
            number += 1
            bar.update()
            stopping = interrupt.asked(number)
            last = stopping or number == training.num_steps

            def due(period, number=number):
                return number % period == 0

            if due(training.log_every) or last:
                if not metrics.exchange(number, sums):
                    _require_good(state, run)
                sums = zeros
            if last or any(map(due, (training.checkpoint_every, training.snapshot_every))):
                _require_good(state, run)
            meta = {"step": number, "batch": number, "ema": profiles}
            if due(training.snapshot_every):
                snapshots.save(number, {"ema": state.ema}, meta)
            if due(training.checkpoint_every) or last:
                checkpoints.save(number, state.items(), meta)
            if due(training.preview_every):
                _require_good(state, run)
                preview(run, writer, number, state.ema[profiles[0]])
    metrics.exchange(number, None)
    bar.close()
    writer.close()
    checkpoints.close()
    snapshots.close()
    data.close()
    if processes.is_first():
        _farewell(run, number, training.num_steps)


def _farewell(run, number, num_steps):
    if number < num_steps:
        print(f"Stopped and saved at step {number}: the same command continues from there.")
    else:
        print(f"Trained to step {number}: {run.folder}")


def _require_good(state, run):
    """Stops the run if a loss or gradient was not finite; waits for the last step."""
    bad = int(state.first_bad)
    if not bad:
        return
    steps = complete_steps(run.checkpoints)
    where = (
        f"the last good checkpoint is {run.checkpoints / str(steps[-1])}"
        if steps
        else ("there is no checkpoint yet")
    )
    raise UserError(
        f"The loss or its gradient was not finite at step {bad}, so training has stopped; {where}: "
        "continue from it with a lower training.learning_rate in a copy of the folder, or look at "
        "the data."
    )


class Metrics:
    """Reads each interval's sums one interval late, when they have long been computed."""

    def __init__(self, writer, bar, batch_size):
        self._writer, self._bar, self._batch_size = writer, bar, batch_size
        self._waiting, self._last = None, (bar.n, time.perf_counter())

    def exchange(self, number, sums):
        """Takes the sums of the interval that ends at step `number`; reports those before.

        Returns:
          Whether the reported loss was finite, or there was none to report.
        """
        waiting, self._waiting = self._waiting, (number, sums)
        if waiting is None:
            return True
        step, values = waiting
        scalars = means(jax.device_get(values))
        now = time.perf_counter()
        rate = (number - self._last[0]) * self._batch_size / max(now - self._last[1], 1e-9)
        self._last = (number, now)
        self._writer.write_scalars(step, {**scalars, "images_per_second": rate})
        self._bar.set_postfix_str(f"loss {scalars['loss']:.4f}, {rate:,.0f} images/s")
        return bool(np.isfinite(scalars["loss"]))


class Preview:
    """Pictures of what a run's EMA samples, with the config's sampling settings."""

    def __init__(self, config, network, process, mesh):
        classes = tuple(range(config.data.num_classes))
        self._generate = Generator(
            network=network,
            process=process,
            sampler=build.sampler(config.sampling),
            shape=build.sample_shape(config),
            classes=classes,
            mesh=mesh,
        )
        self._grid = self._generate.sampler.grid(process.levels(config.sampling.steps))
        self._columns = len(classes) if 1 < len(classes) <= 16 else 8
        self._seed = config.seed

    def __call__(self, run, writer, number, params):
        """Writes previews/<number>.png and the same picture to TensorBoard."""
        numbers = np.arange(PREVIEW_ROWS * self._columns)
        x = self._generate(params, self._grid, self._seed, numbers, len(numbers))
        if processes.is_first():
            picture = pictures.grid(to_uint8(x), self._columns)
            picture.save(run.previews / f"{number}.png")
            writer.write_images(number, {"samples": pictures.to_array(picture)})
