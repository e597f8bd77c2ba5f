"""Runs whose checkpoints are missing: noticing it, and beginning such a run again at step 0."""

from jaxdiff import files
from jaxdiff.checkpoints import checkpointer
from jaxdiff.claims import in_first
from jaxdiff.errors import UserError

# What training writes into a run's folder, and what evaluations keep there.
PARTS = ("checkpoints", "snapshots", "ema", "previews", "tensorboard", "set_aside", "features")
TABLES = ("evaluation.csv", "metrics.csv")
ASIDE = "before-restart"  # what there was is moved to RUN/before-restart-1, and so on


def require_none_lost(run, config):
    """Refuses to begin at step 0 over a run that was trained past its first checkpoint.

    A run that was killed before that has left previews and perhaps snapshots of earlier steps, and
    simply begins again.

    Args:
      run: the run.
      config: that config.json has held so far; None where there is no such file.

    Raises:
      UserError: if checkpoints are gone, or the config is.
    """
    in_first(_require_none_lost, run, config)


def _require_none_lost(run, config):
    if config is not None and checkpointer.complete_steps(run.checkpoints):
        return
    furthest = max(_steps(run), default=None)
    first = (
        0 if config is None else min(config.training.checkpoint_every, config.training.num_steps)
    )
    if furthest is not None and (furthest > first or furthest in _saved(run)):
        lost = run.config_file if config is None else run.checkpoints
        raise UserError(
            f"{run.folder} holds traces of step {furthest}, but {lost} is gone, so that training "
            "cannot be continued: restore it from a copy, or give --restart, which moves what "
            f"there is into a folder {ASIDE}-1 of the run and begins at step 0."
        )


def _steps(run):
    """Steps that a run has left something of."""
    shown = [name.removesuffix(".png") for name in files.names(run.previews)]
    numbers = [int(name) for name in shown if checkpointer.is_step(name)]
    return [*_saved(run), *checkpointer.complete_steps(run.snapshots), *numbers]


def _saved(run):
    """Steps of checkpoints, those that were set aside among them."""
    aside = (name.partition("-") for name in files.names(run.folder / checkpointer.ASIDE))
    numbers = [int(step) for kind, _, step in aside if kind == run.checkpoints.name]
    return [*checkpointer.complete_steps(run.checkpoints), *numbers]


def set_history_aside(run):
    """Moves what training wrote into a run's folder to RUN/before-restart-N; nothing is deleted.

    What else is there stays. Its settings (config.json and others) are copied, so that both folders
    are runs.

    Raises:
      UserError: if the folder cannot be written.
    """
    in_first(_set_history_aside, run)


def _set_history_aside(run):
    there = files.names(run.folder)
    moved = [name for name in PARTS if name in there and files.names(run.folder / name)]
    moved += [name for name in TABLES if name in there]
    if not moved:
        return
    number = 1
    while f"{ASIDE}-{number}" in there:
        number += 1
    aside = run.folder / f"{ASIDE}-{number}"
    for name in there:
        if name.endswith(".json"):
            files.copy(run.folder / name, aside / name)
    for name in moved:
        files.move(run.folder / name, aside / name, checkpointer.LAST)
    print(f"Moved what {run.folder} held to {aside}.")
