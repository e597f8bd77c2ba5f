"""A run's folder before training: claiming it for its settings, and finding where to continue."""

import dataclasses
import os
import sys

import jax
import numpy as np

from jaxdiff import files
from jaxdiff.checked_json import json_text
from jaxdiff.checkpoints import checkpointer
from jaxdiff.checkpoints.run import Run
from jaxdiff.claims import in_first
from jaxdiff.config import EDM, PixelCodec, differences, replaced
from jaxdiff.config.serialization import to_dict
from jaxdiff.data import record
from jaxdiff.data.statistics import standard_deviation
from jaxdiff.errors import UserError
from jaxdiff.parallel import processes
from jaxdiff.training.restart import ASIDE, require_none_lost, set_history_aside
from jaxdiff.training.state import NonFiniteSteps, State
from jaxdiff.version import __version__


def adopt_process(config, run):
    """A config with the noise process of the run that `diffusion.from_run` names.

    A run that has begun keeps the process that it began with, wherever the other run is by now.
    """
    own = config.diffusion
    if not own.from_run:
        return config
    other = run if run.exists() else Run(files.parse_path(own.from_run, "diffusion.from_run"))
    theirs = other.config().diffusion
    if type(theirs) is not type(own):
        raise UserError(
            f"diffusion.from_run is {own.from_run}, whose process is {theirs.kind}, and this run's "
            f"is {own.kind}: name a run of the same kind of process."
        )
    same = {name: getattr(theirs, name) for name in own.SAME}
    return dataclasses.replace(config, diffusion=dataclasses.replace(own, **same))


def measure(config, run, source):
    """A config that states the data's standard deviation, measured where diffusion.data_std is 0.

    A run that has begun keeps the value that it began with.

    Args:
      config: the run's.
      run: its folder.
      source: the training split.

    Raises:
      UserError: if all values of the data are the same, or they are not uint8 images in pixels.
    """
    if not isinstance(config.diffusion, EDM) or config.diffusion.data_std:
        return config
    if run.exists():
        return replaced(config, {"diffusion.data_std": run.config().diffusion.data_std})
    is_pixels = isinstance(config.model.codec, PixelCodec)
    if not is_pixels or source.fetch([0])["x"].dtype != np.uint8:
        raise UserError(
            "diffusion.data_std is 0, and only that of uint8 images in pixels can be measured: "
            "set it to the standard deviation of what the codec encodes."
        )
    value = standard_deviation(source)
    if processes.is_first():
        print(f"The data's standard deviation, diffusion.data_std: {value:.6f}")
    return replaced(config, {"diffusion.data_std": value})


def data_record(config, run, source):
    """The record of the training split, as RUN/data.json keeps it; see `jaxdiff.data.record`.

    Raises:
      UserError: if the folder holds a run that was trained on other data.
    """
    described = record.describe(source)
    record.check(run.folder, described, getattr(config.data, "name", "") or config.data.kind)
    if processes.is_first() and config.training.batch_size > len(source):
        print(
            f"Warning: training.batch_size is {config.training.batch_size} and the split "
            f"train has {len(source)} examples, so a batch holds some of them more than once.",
            file=sys.stderr,
        )
    return described


def check_same_command(config, workdir, restart, profile):
    """Checks that all processes do the same; else their programs would not fit each other.

    Args:
      config: the run's.
      workdir: its folder, as it was given.
      restart: whether what the folder holds is moved aside.
      profile: which steps are traced.

    Raises:
      UserError: in all processes, if they differ.
    """
    given = {
        "--config": json_text(to_dict(config)),
        "--workdir": os.fspath(workdir),
        "--restart": str(restart),
        "--profile": str(tuple(profile)),
        "versions": f"{__version__}, JAX {jax.__version__}",
    }
    if different := [name for name, text in given.items() if not processes.same_everywhere(text)]:
        raise UserError(
            f"The {processes.count()} processes were given different {' and '.join(different)}: "
            "start the same command, of the same versions, in each."
        )


def claim(run, config, described, restart=False):
    """Makes the folder of a run, or checks that it holds this very run; writes its settings.

    Args:
      run: the folder, held by this program.
      config: the run's.
      described: the data, by `data_record`.
      restart: whether to move what the run holds aside, so that it begins at step 0.

    Raises:
      UserError: if the folder holds a run of a different config or one whose checkpoints are gone,
        or cannot be written.
    """
    old = run.config() if run.exists() else None
    if different := differences(old or config, config):
        raise UserError(
            f"{run.folder} holds a run of a different config: {', '.join(different)}; choose "
            "another --workdir, or give the run's own values to continue it."
        )
    if restart:
        set_history_aside(run)
    else:
        require_none_lost(run, old)
    in_first(_write, run, config, described)


def _write(run, config, described):
    files.make_folder(run.previews)
    run.write_config(config)
    record.write(run.folder, described)


def start(run, task, template):
    """The newest checkpoint that can be read, walking back over corrupt ones; or a new state.

    Args:
      run: the run.
      task: its Task.
      template: a State of jax.ShapeDtypeStruct with shardings.

    Returns:
      (State, number of its step).

    Raises:
      UserError: if there are checkpoints and none can be read.
    """
    shardings = jax.tree.map(lambda leaf: leaf.sharding, template)
    steps = checkpointer.same_steps(run.checkpoints)
    for step in reversed(steps):
        try:
            items, meta = checkpointer.read(run.checkpoints, step, template.items())
        except checkpointer.CorruptCheckpoint as error:  # in all processes
            if processes.is_first():
                print(f"Checkpoint {step} is corrupt and passed over: {error}.")
            continue
        counts = jax.tree.map(np.int32, NonFiniteSteps(**meta["non_finite"]))
        return State.from_items(items, jax.device_put(counts, shardings.non_finite)), step
    if steps:
        raise UserError(
            f"None of the checkpoints in {run.checkpoints} can be read: restore one from a copy, "
            f"or give --restart, which moves what there is into a folder {ASIDE}-1 of the run and "
            "begins at step 0."
        )
    return jax.jit(task.init, out_shardings=shardings)(), 0
