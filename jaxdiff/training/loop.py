"""The training loop, top to bottom.

What happens after a step happens in this order:

1. metrics     the sums of the interval before this one are read, so that nothing waits
2. good?       before anything is kept, the state is asked whether it is finite
3. snapshot    the EMA, kept permanently
4. show        samples of the EMA, or a classifier's accuracy on held-out images
5. checkpoint  all that it takes to continue

A checkpoint comes last, and the metrics up to it are read before it, so that whatever ends the run
later, what was reported of the steps before its last checkpoint is complete.
"""

import contextlib

import jax
import numpy as np

from jaxdiff import config as config_lib
from jaxdiff import factory
from jaxdiff.checkpoints.checkpointer import Store, complete_steps
from jaxdiff.checkpoints.run import KEEP_CHECKPOINTS
from jaxdiff.data.pipeline import batches
from jaxdiff.data.source import open_split
from jaxdiff.errors import UserError
from jaxdiff.parallel import processes
from jaxdiff.parallel.memory import out_of_memory
from jaxdiff.parallel.mesh import (
    check_batch_size,
    make_mesh,
    parameter_sharding,
    placed,
    replicated,
    to_devices,
)
from jaxdiff.progress import progress_bar
from jaxdiff.training import ema, workdir
from jaxdiff.training.fitting import check_fits
from jaxdiff.training.interrupt import Interrupt
from jaxdiff.training.metrics_logging import Metrics, Pace, Writer, describe
from jaxdiff.training.objective import of_config
from jaxdiff.training.optimizer import make_optimizer
from jaxdiff.training.periodic_eval import HeldOut, Preview
from jaxdiff.training.state import IN_A_ROW, NonFiniteSteps, State, all_finite, init_state
from jaxdiff.training.step import make_step, zero_sums

INIT = 2**32 - 1  # step n draws from fold_in(key, n), initial parameters from this
# What to do where memory does not suffice.
SMALLER = (
    "lower training.batch_size, raise training.accumulate, which cuts a batch into that many "
    "parts, set training.remat to True, or split the state over mesh.fsdp devices"
)


def train(config, workdir, interrupt=None, restart=False):
    """Trains a run to `training.num_steps`, continuing it if the folder holds it already.

    SIGTERM and Ctrl-C end it after the step in progress, saved.

    Args:
      config: see `jaxdiff.config.base`.
      workdir: the run's folder.
      interrupt: an Interrupt that is entered already; None: one of its own.
      restart: whether to move what the run holds aside, and begin at step 0.

    Raises:
      UserError: for a config, folder or data set that cannot be used, and when the loss or
        its gradient is not finite in IN_A_ROW steps in a row; and when memory is exhausted.
    """
    with contextlib.ExitStack() as stack:
        interrupt = interrupt or stack.enter_context(Interrupt())
        stack.enter_context(out_of_memory(SMALLER))
        stack.enter_context(workdir.held(workdir))
        _train(config, workdir, interrupt, restart)


def _train(config, workdir, interrupt, restart):
    config_lib.check_fields(config)
    config = workdir.adopt_process(config, workdir)
    config_lib.validate(config)
    training = config.training
    mesh = make_mesh(config.mesh.fsdp)
    check_batch_size(training.batch_size, mesh, training.accumulate)
    network = factory.network(config)
    source = open_split(config.data, "train").in_memory()
    config = workdir.measure(config, workdir, source)
    data_record = workdir.data_record(config, workdir, source)
    process = factory.process(config)
    optimizer = make_optimizer(training)
    objective = of_config(config, network, process)
    if config.model.kind == "classifier":
        show = HeldOut(
            network, process, open_split(config.data, config.data.held_out).in_memory(), mesh
        )
    else:
        show = Preview(config, network, process, source, mesh)
    profiles, dtype = list(ema.profiles(training)), training.snapshot_dtype
    init, template = _layout(config, network, optimizer, profiles, mesh)
    check_fits(config, template, mesh, SMALLER)
    run = workdir.claim(workdir, config, data_record, restart)

    describe(mesh, template)
    state, shardings, number = _start(run, config, init, template)
    step = jax.jit(
        make_step(objective, process, optimizer, config),
        donate_argnums=0,
        out_shardings=(shardings, replicated(mesh)),
    )
    zeros = jax.device_put(zero_sums(objective.terms), replicated(mesh))
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
                progress_bar(training.num_steps, "step", number, quiet=not processes.is_first()),
            )
        )
        # What a course of training left that goes no further: averages of two would not mix.
        for steps in (checkpoints, snapshots):
            steps.set_aside(after=number)
        metrics, pace = Metrics(writer, bar, training.batch_size), Pace()
        last = number >= training.num_steps
        if not last and processes.is_first():
            writer.say("Compiling the training step; a large one takes minutes.")
        while not last:
            state, sums = step(state, sums, to_devices(next(data), mesh))
            pace(sums)
            number += 1
            bar.update()
            last = interrupt.asked(number) or number == training.num_steps

            if last or number % training.log_every == 0:
                metrics.push(number, sums)
                sums = zeros
                if metrics.is_over:
                    _require_good(number, state, checkpoints)
            keep_checkpoint = last or number % training.checkpoint_every == 0
            keep_snapshot = number % training.snapshot_every == 0
            is_shown = number % training.preview_every == 0
            if keep_checkpoint or keep_snapshot or is_shown:
                bad = _require_good(number, state, checkpoints)
            meta = {"step": number, "batch": number, "ema": profiles}
            if keep_snapshot:
                items = {"ema": jax.tree.map(lambda x: x.astype(dtype), state.ema)}
                snapshots.save(number, items, {**meta, "dtype": dtype})
            if keep_checkpoint:
                metrics.finish()  # the step was waited for already
            try:
                if is_shown:
                    show(run, writer, number, state.ema[profiles[0]])
            finally:
                # A picture that fails does not cost the checkpoint.
                if keep_checkpoint:
                    checkpoints.save(number, state.items(), {**meta, "bad": vars(bad)})
        metrics.finish()
    if processes.is_first():
        _farewell(run, number, training.num_steps, restart)


def _layout(config, network, optimizer, profiles, mesh):
    """A function that makes a run's first State, and the shapes of it with their shardings."""

    def init():
        key = jax.random.fold_in(jax.random.key(config.seed), INIT)
        return init_state(network, optimizer, profiles, key, factory.loss_history(config))

    shapes = jax.eval_shape(init)
    return init, placed(shapes, parameter_sharding(mesh, shapes))


def _start(run, config, init, template):
    """The run's newest good state, or a fresh one: (state, shardings, number of the next batch)."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, template)
    found = workdir.restore(run, template.items())
    if found is None:
        state, number = jax.jit(init, out_shardings=shardings)(), 0
    else:
        items, meta = found
        # Checkpoints of earlier versions count none.
        bad = NonFiniteSteps(**meta.get("bad", {"total": 0, "in_row": 0, "first": 0}))
        bad = jax.device_put(jax.tree.map(np.int32, bad), shardings.bad)
        state = State.from_items(items, bad)
        number = meta["batch"]
    if processes.is_first():
        doing = "Training" if found is None else "Continuing"
        print(f"{doing} from step {number} to {config.training.num_steps}.", flush=True)
    return state, shardings, number


def _farewell(run, number, num_steps, restart):
    if number < num_steps:
        command = "the same command without --restart" if restart else "the same command"
        print(f"Stopped and saved at step {number}: {command} continues from there.")
    else:
        print(f"Trained to step {number}: {run.folder}")


def _require_good(number, state, checkpoints):
    """Stops a run that cannot go on; waits for the last step. Returns NonFiniteSteps, of Python numbers.

    A bad step or a few leave parameters that are finite, and those may be kept.
    """
    bad = jax.tree.map(int, jax.device_get(state.bad))
    if bad.in_row >= IN_A_ROW:
        problem = (
            f"The loss or its gradient was not finite in {IN_A_ROW} steps in a row, from step "
            f"{bad.first} on"
        )
    elif not all_finite(state.params):
        problem = f"The parameters are not finite at step {bad.first or number}"
    else:
        return bad
    checkpoints.wait()
    steps = complete_steps(checkpoints.folder)
    where = (
        f"the last good checkpoint is {checkpoints.folder / str(steps[-1])}"
        if steps
        else "there was no checkpoint yet"
    )
    raise UserError(
        f"{problem}, so training has stopped; {where}: the same command continues from there, and "
        "a lower training.learning_rate in another --workdir may avoid it."
    )
