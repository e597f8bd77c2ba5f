"""The training loop, top to bottom.

What happens after a step happens in this order:

1. metrics     the sums of the interval before this one are read, so that nothing waits
2. good?       before anything is kept, the state is asked for its first non-finite step
3. snapshot    the EMA, for ever
4. checkpoint  all that it takes to go on
5. preview     a picture of what the EMA has learned
"""

import contextlib
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
    replicated,
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
INIT = 2**32 - 1  # step n draws from fold_in(key, n), initial parameters from this


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
    optimizer = make_optimizer(training)
    preview = Preview(config, network, process, mesh)
    source = _training_source(config.data)
    run = folder.claim(workdir, config)

    profiles = [str(training.ema)]
    state, shardings, number = _start(run, config, network, optimizer, profiles, mesh)
    step = jax.jit(
        make_step(network, process, optimizer, config),
        donate_argnums=0,
        out_shardings=(shardings, replicated(mesh)),
    )
    zeros = jax.device_put(zero_sums(process.terms), replicated(mesh))
    sums = zeros
    with contextlib.ExitStack() as stack:
        # Whatever ends the loop, what has been begun is written to the end.
        data, checkpoints, snapshots, writer, bar = (
            stack.enter_context(contextlib.closing(resource))
            for resource in (
                batches(source, training.batch_size, config.seed, number, config.data.workers),
                Store(run.checkpoints, KEEP_CHECKPOINTS),
                Store(run.snapshots),
                Writer(run.tensorboard, number),
                progress_bar(training.num_steps, number),
            )
        )
        interrupt = stack.enter_context(Interrupt())
        checkpoints.set_aside(after=number)
        metrics = Metrics(writer, bar, training.batch_size)
        last = number >= training.num_steps
        while not last:
            state, sums = step(state, sums, to_devices(next(data), mesh))
            number += 1
            bar.update()
            last = interrupt.asked(number) or number == training.num_steps

            if last or number % training.log_every == 0:
                metrics.push(number, sums)
                sums = zeros
                if not metrics.finite:
                    _require_good(state, checkpoints)
            keep_checkpoint = last or number % training.checkpoint_every == 0
            keep_snapshot = number % training.snapshot_every == 0
            show = number % training.preview_every == 0
            if keep_checkpoint or keep_snapshot or show:
                _require_good(state, checkpoints)
            meta = {"step": number, "batch": number, "ema": profiles}
            if keep_snapshot:
                snapshots.save(number, {"ema": state.ema}, meta)
            if keep_checkpoint:
                checkpoints.save(number, state.items(), meta)
            if show:
                preview(run, writer, number, state.ema[profiles[0]])
        metrics.finish()
    if processes.is_first():
        _farewell(run, number, training.num_steps)


def _training_source(data):
    return open_source(
        data.name,
        "train",
        image_size=data.image_size,
        channels=data.channels,
        num_classes=data.num_classes,
    ).in_memory()


def _start(run, config, network, optimizer, profiles, mesh):
    """The run's newest good state, or a fresh one: (state, shardings, number of the next batch)."""

    def init():
        return init_state(
            network, optimizer, profiles, jax.random.fold_in(jax.random.key(config.seed), INIT)
        )

    shapes = jax.eval_shape(init)
    shardings = parameter_sharding(mesh, shapes)
    template = placed(shapes, shardings)
    describe(mesh, template)
    found = folder.restore(run, template.items())
    if found is None:
        state, number = jax.jit(init, out_shardings=shardings)(), 0
    else:
        state = State.from_items(found[0], jax.device_put(np.int32(0), shardings.first_bad))
        number = found[1]["batch"]
    if processes.is_first():
        doing = "Training" if found is None else "Continuing"
        print(f"{doing} from step {number} to {config.training.num_steps}.", flush=True)
    return state, shardings, number


def _farewell(run, number, num_steps):
    if number < num_steps:
        print(f"Stopped and saved at step {number}: the same command continues from there.")
    else:
        print(f"Trained to step {number}: {run.folder}")


def _require_good(state, checkpoints):
    """Stops the run if a loss or gradient was not finite; waits for the last step."""
    bad = int(state.first_bad)
    if not bad:
        return
    checkpoints.wait()
    steps = complete_steps(checkpoints.folder)
    where = (
        f"the last good checkpoint is {checkpoints.folder / str(steps[-1])}"
        if steps
        else "there was no checkpoint yet"
    )
    raise UserError(
        f"The loss or its gradient was not finite at step {bad}, so training has stopped; {where}: "
        "the same command goes on from there, and a lower training.learning_rate in another "
        "--workdir may avoid it."
    )


class Metrics:
    """Reads each interval's sums one interval late, when they have long been computed.

    Attributes:
      finite: whether the losses read so far were.
    """

    def __init__(self, writer, bar, batch_size):
        self.finite = True
        self._writer, self._bar, self._batch_size = writer, bar, batch_size
        self._waiting, self._since = None, (bar.n, time.perf_counter())

    def push(self, number, sums):
        """Takes the sums of the interval that ends at step `number`; reports those before."""
        now = time.perf_counter()
        rate = (number - self._since[0]) * self._batch_size / (now - self._since[1])
        self._since = (number, now)
        self.finish()
        self._waiting = number, sums, rate

    def finish(self):
        """Reports what is waiting."""
        if self._waiting is None:
            return
        (number, sums, rate), self._waiting = self._waiting, None
        scalars = means(jax.device_get(sums))
        self.finite = self.finite and bool(np.isfinite(scalars["loss"]))
        self._writer.write_scalars(number, {**scalars, "images_per_second": rate})
        self._bar.set_postfix_str(
            f"loss {scalars['loss']:.4f}, {rate:,.0f} images/s", refresh=False
        )


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
