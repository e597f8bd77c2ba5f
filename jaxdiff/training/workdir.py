"""A run's folder before training: whose it is, and from where the run continues."""

import pathlib
import sys

from jaxdiff import config as config_lib
from jaxdiff.checkpoints import checkpointer
from jaxdiff.checkpoints.run import Run
from jaxdiff.data import record
from jaxdiff.data.statistics import standard_deviation
from jaxdiff.errors import UserError
from jaxdiff.files import local_path
from jaxdiff.parallel import processes
from jaxdiff.training.restart import ASIDE, require_none_lost, set_history_aside


def adopt_process(config, workdir):
    """A config that holds in full the process of the run that `diffusion.from_run` names.

    A run that has begun keeps the process that it began with, wherever the other run is by now.
    """
    name = config.diffusion.from_run
    if not name:
        return config
    begun, other = Run(pathlib.Path(workdir)), Run(local_path(name, "diffusion.from_run"))
    other = begun if begun.exists() else other
    config = config.copy_and_resolve_references()
    theirs = other.config().diffusion
    for field in config_lib.PROCESS_FIELDS:
        config.diffusion[field] = theirs[field]
    return config


def measure(config, workdir, source):
    """A config that states the data's standard deviation, measured where diffusion.data_std is 0.

    A run that has begun keeps the value that it began with.

    Args:
      config: the run's.
      workdir: its folder.
      source: the training split.

    Raises:
      UserError: if all of the data are alike.
    """
    if config.diffusion.process != "edm" or config.diffusion.data_std:
        return config
    begun = Run(pathlib.Path(workdir))
    config = config.copy_and_resolve_references()
    if begun.exists():
        config.diffusion.data_std = begun.config().diffusion.data_std
        return config
    config.diffusion.data_std = standard_deviation(source)
    if processes.is_first():
        print(f"The data's standard deviation, diffusion.data_std: {config.diffusion.data_std:.6f}")
    return config


def held(workdir):
    """A context in which no other program may train the run of a folder; see `Run.held`."""
    return Run(local_path(workdir, "--workdir")).held("--workdir")


def data_record(config, workdir, source):
    """The record of the training split, as RUN/data.json keeps it; see `jaxdiff.data.record`.

    Raises:
      UserError: if the folder holds a run that was trained on other data.
    """
    described = record.describe(source)
    record.check(pathlib.Path(workdir), described, config.data.name)
    if processes.is_first() and config.training.batch_size > len(source):
        print(
            f"train.py: warning: training.batch_size is {config.training.batch_size} and the split "
            f"train has {len(source)} examples, so a batch holds some of them more than once.",
            file=sys.stderr,
        )
    return described


def claim(workdir, config, data_record, restart=False):
    """Makes the folder of a run, or checks that it holds this very run; writes its settings.

    Args:
      workdir: the folder.
      config: the run's.
      data_record: from the function of that name.
      restart: whether to move what the run holds aside, so that it begins at step 0.

    Raises:
      UserError: if the folder holds a run of a different config or one whose checkpoints are gone,
        or cannot be written.
    """
    run = Run(pathlib.Path(workdir))
    old = run.config() if run.exists() else None
    if different := config_lib.differences(old or config, config):
        raise UserError(
            f"{run.folder} holds a run of a different config: {', '.join(different)}; choose "
            "another --workdir, or give the run's own values to continue it."
        )
    if restart:
        set_history_aside(run)
    else:
        require_none_lost(run, old)
    checkpointer.together(
        run.folder, _write, run, config, data_record, advice="choose another --workdir"
    )
    return run


def _write(run, config, data_record):
    if processes.is_first():
        run.previews.mkdir(parents=True, exist_ok=True)
        run.write_config(config)
        record.write(run.folder, data_record)


def restore(run, template):
    """The newest checkpoint that can be read, walking back over damaged ones.

    Args:
      run: the run.
      template: {item: tree of jax.ShapeDtypeStruct with shardings}.

    Returns:
      (items, meta), or None where there is no checkpoint at all.

    Raises:
      UserError: if there are checkpoints and none can be read.
    """
    steps = checkpointer.complete_steps(run.checkpoints)
    for step in reversed(steps):
        problem = None
        try:
            items, meta = checkpointer.read(run.checkpoints, step, template)
        except checkpointer.CorruptCheckpoint as error:
            problem = error
        # Processes must agree: one that cannot read its part takes all of them a step back.
        if not processes.any_process(problem is not None):
            return items, meta
        if processes.is_first():
            print(f"Checkpoint {step} is damaged and passed over: {problem}.")
    if steps:
        raise UserError(
            f"None of the checkpoints in {run.checkpoints} can be read: restore one from a copy, "
            f"or give --restart, which moves what there is into a folder {ASIDE}-1 of the run and "
            "begins at step 0."
        )
    return None
