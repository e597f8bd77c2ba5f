"""The training loop, top to bottom.

What happens after a step happens in this order:

1. metrics     the sums of the interval before this one are read, so that nothing waits; a thread
               writes them
2. finite?     before anything is kept, the parameters are checked
3. snapshot    the EMA, kept permanently
4. evaluation  pictures and metrics of samples of the EMA, the loss on held-out images
5. checkpoint  all that it takes to continue

A checkpoint comes last, and the metrics up to it are read and written before it, so whatever ends
the run later, what was reported of the steps before its last checkpoint is complete.
"""

import contextlib
import time

import jax
import numpy as np

from jaxdiff import files
from jaxdiff.checkpoints.checkpointer import Checkpointer, complete_steps
from jaxdiff.checkpoints.run import KEEP_CHECKPOINTS, Run
from jaxdiff.chips import peak_flops
from jaxdiff.claims import in_first
from jaxdiff.config import import_modules
from jaxdiff.data.pipeline import batches
from jaxdiff.data.source import open_split
from jaxdiff.errors import UserError, user_errors
from jaxdiff.memory import out_of_memory
from jaxdiff.parallel import processes
from jaxdiff.parallel.mesh import check_batch_size, make_mesh, replicated, rows_here, to_devices
from jaxdiff.progress import progress_bar
from jaxdiff.training import screens
from jaxdiff.training import workdir as workdir_lib
from jaxdiff.training.compiled import jitted_step, state_template, step_flops
from jaxdiff.training.fitting import check_fits
from jaxdiff.training.interrupt import Interrupt
from jaxdiff.training.metrics import Constants, Metrics, Pace, Timed, columns
from jaxdiff.training.periodic_eval import evaluations_of
from jaxdiff.training.profile import Profile, annotated
from jaxdiff.training.state import IN_A_ROW, all_finite
from jaxdiff.training.step import zero_sums
from jaxdiff.training.task import Task
from jaxdiff.training.writer import Writer

# What to do where memory does not suffice.
SMALLER = (
    "lower training.batch_size, raise training.accumulate, which cuts a batch into that many "
    "parts, set training.remat to True, or split the state over mesh.fsdp devices"
)


def train(config, workdir, interrupt=None, restart=False, profile=()):
    """Trains a run to `training.num_steps`, continuing it if the folder holds it already.

    SIGTERM and Ctrl-C end it after the step in progress, saved.

    Args:
      config: a RunConfig.
      workdir: the run's folder.
      interrupt: an Interrupt that is entered already; None: one of its own.
      restart: whether to move what the run holds aside, and begin at step 0.
      profile: (START, STEPS) to write a trace of steps START + 1 to START + STEPS.

    Raises:
      UserError: for a config, folder, dataset or profile that cannot be used, when the loss or its
        gradient is not finite in IN_A_ROW steps in a row, and when memory is exhausted.
    """
    run = Run(files.parse_path(workdir, "--workdir"))
    # The function that prepares the data: whoever wrote the config means it to be called.
    import_modules(filter(None, [getattr(config.data, "prepare", "").partition(":")[0]]))
    with contextlib.ExitStack() as stack:
        interrupt = interrupt or stack.enter_context(Interrupt())
        stack.enter_context(out_of_memory(SMALLER))
        workdir_lib.check_same_command(config, workdir, restart, profile)
        stack.enter_context(run.held("--workdir"))
        _train(config, run, interrupt, restart, profile)


def _train(config, run, interrupt, restart, profile):
    config = workdir_lib.adopt_process(config, run)
    mesh, training = _mesh(config), config.training
    source = open_split(config.data, "train", config.model.conditions).in_memory()
    config = workdir_lib.measure(config, run, source)
    data_record = workdir_lib.data_record(config, run, source)
    task = Task.of(config, mesh)
    evaluations = evaluations_of(task, run, source, mesh, interrupt)
    template = state_template(task, mesh)
    check_fits(config, template, mesh, SMALLER)
    workdir_lib.claim(run, config, data_record, restart)
    constants = _constants(config, source, mesh)
    if processes.is_first():
        screens.start(config, run, source, mesh, template, constants)
    state, number = workdir_lib.start(run, task, template)
    profile = Profile(profile, run, number, training.num_steps)
    sums = zeros = jax.device_put(zero_sums(task.objective.terms), replicated(mesh))
    profiles, dtype = list(state.ema), training.snapshot_dtype
    with contextlib.ExitStack() as stack:
        # Whatever ends the loop, what has been begun is written to the end.
        def closing(resource):
            return stack.enter_context(contextlib.closing(resource))

        data = closing(_data(config, source, mesh, number))
        checkpoints = closing(Checkpointer(run.checkpoints, KEEP_CHECKPOINTS))
        snapshots = closing(Checkpointer(run.snapshots))
        writer = closing(Writer(run, columns(task.objective.terms), number))
        closing(profile)
        # What steps after this one left: averages of two courses of training would not mix.
        for steps in (checkpoints, snapshots):
            steps.set_aside(after=number)
        last = number >= training.num_steps
        if not last:
            writer.say(_doing(number, training.num_steps))
            step = jitted_step(task, template, mesh)
            step = _compiled(step, writer, state, sums, to_devices(data.peek(), mesh))
        quiet = not processes.is_first()
        bar = closing(progress_bar(training.num_steps, "step", number, quiet))
        metrics, pace = Metrics(writer, bar, constants, data, mesh, number), Pace()
        profile.at(number, state)
        while not last:
            with annotated(number + 1):
                state, sums = step(state, sums, to_devices(next(data), mesh))
            pace(sums)
            number += 1
            bar.update()
            checkpoints.check(), snapshots.check()
            profile.at(number, sums)
            last = interrupt.asked() or number == training.num_steps

            if last or number % training.log_every == 0:
                metrics.push(number, sums)
                sums = zeros
                if metrics.is_over:
                    _require_finite(number, state, checkpoints)
            keep_checkpoint = last or number % training.checkpoint_every == 0
            keep_snapshot = number % training.snapshot_every == 0
            due = [evaluate for period, evaluate in evaluations if number % period == 0]
            if keep_checkpoint or keep_snapshot or due:
                non_finite = _require_finite(number, state, checkpoints)
            meta = {"step": number, "ema": profiles}
            if keep_snapshot:
                items = {"ema": jax.tree.map(lambda x: x.astype(dtype), state.ema)}
                snapshots.save(number, items, {**meta, "dtype": dtype})
            if keep_checkpoint or due:
                metrics.finish()  # the step was waited for already
            try:
                for evaluate in due:
                    evaluate(run, writer, number, state.ema[profiles[0]])
            except Exception:
                # An evaluation that fails costs no steps, unless it fails in some processes alone:
                # the others are in a computation, and would not come to save.
                keep_checkpoint = processes.meet(f"failed-evaluation-{number}", seconds=20)
                raise
            finally:
                if keep_checkpoint:
                    in_first(writer.flush)
                    meta = {**meta, "non_finite": vars(non_finite)}
                    checkpoints.save(number, state.items(), meta)
        metrics.finish()
        overall = metrics.overall(number)
    if processes.is_first():
        screens.end(run, number, training, overall, restart, interrupt.number)


def _data(config, source, mesh, number):
    """This process's parts of the batches from step `number` on."""
    size, workers = config.training.batch_size, config.data.workers
    return Timed(batches(source, size, config.seed, number, workers, rows_here(mesh, size)))


def _mesh(config):
    """The devices, which must divide a batch."""
    with user_errors():
        mesh = make_mesh(config.mesh.fsdp)
        check_batch_size(config.training.batch_size, mesh, config.training.accumulate)
    return mesh


def _constants(config, source, mesh):
    """What rates are computed from; the operations of a step only where they are wanted."""
    peak = peak_flops(mesh.devices.flat[0].device_kind)
    is_wanted = peak is not None and processes.is_first()
    return Constants(
        training=config.training,
        examples=len(source),
        flops=step_flops(config, source.fetch(np.arange(1))) if is_wanted else None,
        peak=peak and peak * mesh.size,
    )


def _doing(number, num_steps):
    doing = "Continuing" if number else "Training"
    return (
        f"{doing} from step {number} to {num_steps}. Compiling the training step first; a large "
        "one takes minutes."
    )


def _compiled(step, writer, *arguments):
    """A jitted step as it is compiled for its arguments."""
    begun = time.perf_counter()
    step = step.lower(*arguments).compile()
    writer.say(screens.compiled(step, time.perf_counter() - begun))
    return step


def _require_finite(number, state, checkpoints):
    """Stops a run that cannot continue; waits for the last step. Returns NonFiniteSteps, of ints.

    A few non-finite steps leave parameters that are finite, and those may be kept.
    """
    non_finite = jax.tree.map(int, jax.device_get(state.non_finite))
    if non_finite.in_row >= IN_A_ROW:
        problem = (
            f"The loss or its gradient was not finite in {IN_A_ROW} steps in a row, from step "
            f"{non_finite.first} on"
        )
    elif not all_finite(state.params):
        problem = f"The parameters are not finite at step {non_finite.first or number}"
    else:
        return non_finite
    checkpoints.wait()
    steps = complete_steps(checkpoints.folder)
    where = (
        f"the last checkpoint is {checkpoints.folder / str(steps[-1])}"
        if steps
        else "there was no checkpoint yet"
    )
    raise UserError(
        f"{problem}, so training has stopped; {where}: the same command continues from there, and "
        "a lower training.learning_rate in another --workdir may avoid it."
    )
