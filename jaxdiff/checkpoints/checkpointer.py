"""Folders of numbered steps, written and read by orbax: a run's checkpoints and its snapshots.

FOLDER/<step>/<item>/      a tree of arrays, such as `params` or `ema`
FOLDER/<step>/meta/        JSON: what else belongs to the step, and each item's fingerprint
"""

import contextlib
import hashlib
import json
import re
import sys
import threading

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxdiff import files
from jaxdiff.checked_json import parse_json, with_checksum
from jaxdiff.checkpoints.fingerprint import changed, fingerprint
from jaxdiff.claims import in_first
from jaxdiff.errors import UserError
from jaxdiff.parallel import processes

# The file that orbax writes last into a step; in a bucket a step without it is not whole.
LAST = "commit_success.txt"
ASIDE = "set_aside"  # the folder of a run for steps that it does not continue from
# How tensorstore says what the disk refuses: `...: No space left on device [os_error_code='28'...`.
DISK = re.compile(r"([^:\s][^:\n]*) \[os_error_code=")


class CorruptCheckpoint(Exception):
    """A step that cannot be read back as it was written; the message says how."""


class Checkpointer:
    """Writes steps into a folder, asynchronously.

    What the disk refuses is raised as files.WriteError: by the save itself, or by whatever is
    called next.

    Arguments:
      folder: made if it does not exist.
      keep: how many of the latest steps stay; None: all, permanently.
    """

    def __init__(self, folder, keep=None):
        self.folder = files.absolute(folder)
        # Processes wait for each other at barriers that orbax names by the step alone: a snapshot
        # and a checkpoint of one step that are written at once would meet at each other's.
        prefix = ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=self.folder.name)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            cleanup_tmp_directories=True,
            enable_async_checkpointing=True,
            async_options=ocp.options.AsyncOptions(barrier_sync_fn=_barrier),
            multiprocessing_options=prefix,
        )
        with _writing(self.folder):
            self._manager = ocp.CheckpointManager(self.folder, options=options)

    def save(self, step, items, meta):
        """Begins to write a step; returns once the values are safe from later changes.

        A step that is there already, as the first process sees it, is left as it is: steps are a
        function of the run's config.

        Args:
          step: its number.
          items: {name: tree of arrays}.
          meta: {name: JSON value} to keep beside them.
        """
        self.wait()
        if processes.agree(int(in_first(self._has, step) or 0)):
            return
        fingerprints = {name: fingerprint(tree) for name, tree in items.items()}
        meta = with_checksum({**meta, "step": step, "fingerprints": fingerprints})
        args = {name: ocp.args.PyTreeSave(tree) for name, tree in items.items()}
        args = ocp.args.Composite(meta=ocp.args.JsonSave(meta), **args)
        with _writing(self.folder):
            self._manager.save(step, args=args, force=True)

    def _has(self, step):
        return step in complete_steps(self.folder)

    def set_aside(self, after):
        """Moves steps later than `after` to FOLDER/../set_aside/FOLDER-STEP."""
        self.wait()
        in_first(_set_aside, self.folder, after)
        self._manager.reload()

    def wait(self):
        """Waits until everything is written; raises what went wrong while it was."""
        with _writing(self.folder):
            self._manager.wait_until_finished()

    def check(self):
        """Raises what went wrong so far while a step was written; does not wait."""
        with _writing(self.folder):
            self._manager.check_for_errors()

    def close(self):
        """Waits, and ends the manager's threads."""
        with _writing(self.folder), contextlib.closing(self._manager):
            self.wait()


def _barrier(*, key, timeout_ms):
    """Where orbax's threads wait for those of all processes; not in one that failed.

    It would be the only one there: the others are at an earlier barrier, for up to 20 minutes. What
    failed is raised at once instead, and ends them.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if is_main or sys.exc_info()[0] is None:
        ocp.multihost.get_barrier_sync_fn()(key=key, timeout_ms=timeout_ms)


@contextlib.contextmanager
def _writing(folder):
    """As files.writing, also for what tensorstore raises for the disk."""
    with files.writing(folder):
        try:
            yield
        except ValueError as error:
            if match := DISK.search(str(error)):
                raise OSError(match[1]) from error
            raise


def _set_aside(folder, after):
    late = [step for step in complete_steps(folder) if step > after]
    for step in late:
        place = folder.parent / ASIDE / f"{folder.name}-{step}"
        remove(place)  # of an earlier time
        files.move(folder / str(step), place, LAST)
    if late:
        steps = ", ".join(map(str, late))
        print(f"Moved {folder.name} after step {after} to {ASIDE}/: {steps}.")


def remove(step):
    """Removes the folder of a step, which at no time looks whole; in one process."""
    files.remove(step / LAST)
    files.remove_tree(step)


def is_step(name):
    """Whether a name is a number as steps are written: no 007."""
    return name.isascii() and name.isdecimal() and str(int(name)) == name


def complete_steps(folder):
    """Numbers of the steps in a folder that were written to the end, in order."""
    steps = sorted(int(name) for name in files.names(folder) if is_step(name))
    with files.reading(folder):
        return [step for step in steps if ocp.utils.is_checkpoint_finalized(folder / str(step))]


def same_steps(folder):
    """The complete_steps that the first process sees, in all processes; every process asks.

    A network disk may show another host the folder as it was a minute ago.
    """
    steps = in_first(complete_steps, folder) or []
    count = processes.agree(len(steps))
    steps += [0] * (count - len(steps))  # in the others
    return [processes.agree(step) for step in steps]


def read_meta(folder, step):
    """What was saved beside a step's items.

    Raises:
      CorruptCheckpoint: if it cannot be read, or was changed since it was written.
    """
    path = files.absolute(folder) / str(step) / "meta"
    try:
        values = ocp.JsonCheckpointHandler().restore(path)
        meta = parse_json(json.dumps(values), "meta", ("step", "fingerprints"))
    except (OSError, ValueError, RecursionError) as error:
        raise CorruptCheckpoint(f"its metadata cannot be read ({error})") from error
    if meta["step"] != step:
        raise CorruptCheckpoint(f"its metadata is of step {meta['step']}")
    return meta


def digest(meta):
    """Text that identifies a step's averages, by the fingerprints in its metadata.

    Raises:
      CorruptCheckpoint: if it has none.
    """
    if "ema" not in meta["fingerprints"]:
        raise CorruptCheckpoint("its metadata has no fingerprints of averages")
    text = json.dumps(meta["fingerprints"]["ema"], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def shapes(folder, step, item):
    """The tree of jax.ShapeDtypeStruct that a step's item was saved as.

    Raises:
      CorruptCheckpoint: if it cannot be read.
    """
    path = files.absolute(folder) / str(step) / item
    try:
        with ocp.Checkpointer(
            _handler(), multiprocessing_options=_multiprocessing()
        ) as checkpointer:
            tree = checkpointer.metadata(path).item_metadata.tree
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)
    except Exception as error:  # of many kinds, as below
        raise CorruptCheckpoint(f"{item} cannot be read ({type(error).__name__})") from error


def read(folder, step, templates, partly=False):
    """Reads items of a step, and checks them against their fingerprints.

    Args:
      folder, step: where.
      templates: {item: tree of jax.ShapeDtypeStruct with shardings} to restore into. The types
        are those that were saved: a fingerprint is of bits.
      partly: whether templates may leave out entries of an item's first level, such as averages
        that are not wanted; nothing of those is read.

    Returns:
      ({item: tree of arrays}, meta).

    Raises:
      CorruptCheckpoint: in all processes, if files are missing, cut short or changed.
    """
    meta = in_all(read_meta, folder, step)
    items = {}
    for name, template in templates.items():
        path = files.absolute(folder) / str(step) / name
        items[name] = in_all(_restore, path, template, partly)
        expected = meta["fingerprints"].get(name, {})
        if partly:
            expected = {n: v for n, v in expected.items() if n.split("/")[0] in template}
        if wrong := changed(items[name], expected):
            raise CorruptCheckpoint(
                f"{name} holds other values than were saved, first in {wrong[0]}"
            )
    return items, meta


def in_all(function, *args):
    """What `function` returns; raises CorruptCheckpoint in all processes if in any."""
    result = problem = None
    try:
        result = function(*args)
    except CorruptCheckpoint as error:
        problem = error
    if (failed := processes.first_where(problem is not None)) is not None:
        raise problem or CorruptCheckpoint(
            f"process {failed} of {processes.count()} cannot read it"
        )
    return result


def _restore(path, template, partly):
    # Averages are read by the dozen, and placing small arrays one by one takes orbax twice the
    # time. A training state is donated, and so may not use memory that NumPy owns.
    through_host = partly and processes.count() == 1
    restore_args = (
        jax.tree.map(lambda leaf: ocp.RestoreArgs(np.ndarray, leaf.dtype), template)
        if through_host
        else ocp.checkpoint_utils.construct_restore_args(template)
    )
    args = ocp.args.PyTreeRestore(template, restore_args, partial_restore=partly)
    try:
        # Not by an ocp.Checkpointer, which waits for the other processes at the end: one that
        # cannot read a file would leave them waiting there.
        with contextlib.closing(_handler()) as handler:
            tree = handler.restore(path, args=args)
        return _placed(tree, template) if through_host else tree
    # tensorstore, orbax and the file system raise errors of many kinds for corrupt files.
    except Exception as error:
        message = str(error).strip().split("\n")[0][:200]
        raise CorruptCheckpoint(
            f"{path.name} cannot be read ({type(error).__name__}: {message})"
        ) from error


def _multiprocessing():
    """Which processes orbax waits for: this one alone where the others take no part."""
    if processes.count() == jax.process_count():
        return ocp.options.MultiprocessingOptions()
    return ocp.options.MultiprocessingOptions(None, {jax.process_index()})


def _handler():
    """What reads trees of arrays."""
    return ocp.PyTreeCheckpointHandler(multiprocessing_options=_multiprocessing())


def _placed(arrays, template):
    """NumPy arrays on the devices where a template says; ValueError if it has other shapes."""
    for array, leaf in zip(jax.tree.leaves(arrays), jax.tree.leaves(template), strict=True):
        if array.shape != leaf.shape:
            raise ValueError(f"an array has the shape {array.shape}, not {leaf.shape}")
    return jax.device_put(arrays, jax.tree.map(lambda leaf: leaf.sharding, template))


def corrupt(folder, step, error):
    """The UserError for a step of a reference that cannot be read."""
    return UserError(
        f"{folder / str(step)} is corrupt: {error}; use another step, or move it elsewhere."
    )
