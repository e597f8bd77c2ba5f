"""A run whose checkpoints are gone: how that is noticed, and what begins it again at step 0."""

import re
import shutil
import struct

from google.protobuf.message import DecodeError
from tensorboardX.proto.event_pb2 import Event

from jaxdiff.checkpoints import checkpointer
from jaxdiff.errors import UserError
from jaxdiff.parallel import processes

# What training makes in a run's folder, and evaluations keep there.
PARTS = ("checkpoints", "snapshots", "ema", "previews", "tensorboard", "damaged", "moments")
ASIDE = "before-restart"  # what there was is moved to RUN/before-restart-1, and so on


def require_none_lost(run, config):
    """Refuses to begin at step 0 over a run that was trained past its first checkpoint.

    One that was killed before that has left reports and perhaps snapshots of earlier steps, and
    simply begins again.

    Args:
      run: the run.
      config: that config.json has held so far; None where there is no such file.

    Raises:
      UserError: if checkpoints are gone, or the config is.
    """
    with checkpointer.reading(run.folder):
        trace = _trace(run, config)
    # Processes must agree, and files may go while they look.
    if processes.any_process(trace is not None):
        lost = run.config_file if config is None else run.checkpoints
        raise UserError(
            f"{run.folder} holds {trace or 'a run'}, but {lost} is "
            f"{'damaged or ' if lost.exists() else ''}gone, so that training cannot be continued: "
            f"restore it from a copy, or give --restart, which moves what there is into a folder "
            f"{ASIDE}-1 of the run and begins at step 0."
        )


def _trace(run, config):
    """What shows that a run that cannot be continued was trained, in words; or None."""
    whole, damaged = checkpointer.complete_steps(run.checkpoints), _damaged(run)
    arrays = [*whole, *damaged, *_steps(run.snapshots)]
    reports = [] if config is None else [*_steps(run.previews), *_events(run)]
    # Step 0 is that of an import whose steps nobody named; training saves none.
    furthest = max([*arrays, *reports], default=None)
    found = None if furthest is None else f"traces of step {furthest}"
    if config is None or furthest is None:
        return found
    names = _names(run.checkpoints)
    if whole or (not damaged and any(".orbax-checkpoint-tmp" in name for name in names)):
        return None  # or killed while the first one was being written
    is_past = furthest > config.training.checkpoint_every or furthest >= config.training.num_steps
    return found if is_past or damaged or not run.checkpoints.is_dir() else None


def _damaged(run):
    """Steps of checkpoints that were whole once."""
    names = " ".join(_names(run.folder / "damaged"))
    return [*_steps(run.checkpoints), *map(int, re.findall(r"\bcheckpoints-([0-9]+)", names))]


def _names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def _steps(folder):
    """Numbers that a folder's entries are named by: 500, 500.png."""
    stems = (name.removesuffix(".png") for name in _names(folder))
    return [int(stem) for stem in stems if checkpointer.is_step(stem)]


def _events(run):
    """Steps of the reports in TensorBoard's files, as far as they can be read."""
    paths = run.tensorboard.glob("*tfevents*") if run.tensorboard.is_dir() else ()
    return [step for path in paths for step in _steps_of_events(path)]


def _steps_of_events(path):
    # Records of length (8 bytes), its checksum (4), an Event, its checksum (4).
    with path.open("rb") as file:
        while len(head := file.read(12)) == 12:
            data = file.read(min(struct.unpack("<Q", head[:8])[0], 2**28))
            file.read(4)
            try:
                event = Event.FromString(data)
            except DecodeError:
                return
            if event.HasField("summary"):
                yield event.step


def set_history_aside(run):
    """Moves what training made in a run's folder into RUN/before-restart-N; nothing is deleted.

    What else is there stays. Its settings (config.json and others) are copied, so that both folders
    are runs.

    Raises:
      UserError: if the folder cannot be written.
    """
    checkpointer.together(run.folder, _set_history_aside, run, advice=checkpointer.ROOM)


def _set_history_aside(run):
    if not (processes.is_first() and run.folder.is_dir()):
        return
    settings = sorted(run.folder.glob("*.json"))
    paths = [run.folder / name for name in PARTS]
    moved = [path for path in paths if path.exists() and not _is_empty(path)]
    if not moved:
        return
    number = 1
    while (aside := run.folder / f"{ASIDE}-{number}").exists():
        number += 1
    aside.mkdir()
    for path in settings:
        shutil.copy2(path, aside / path.name)
    for path in moved:
        path.rename(aside / path.name)
    print(f"Moved what {run.folder} held to {aside}.")


def _is_empty(path):
    return path.is_dir() and not any(path.iterdir())
