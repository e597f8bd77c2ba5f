"""Folders of numbered steps, written and read by orbax: a run's checkpoints and its snapshots.

FOLDER/<step>/<item>/      a tree of arrays, such as `params` or `ema`
FOLDER/<step>/meta/        JSON: what else belongs to the step, and each item's fingerprint
"""

import contextlib
import gc
import hashlib
import inspect
import json
import pathlib
import re
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxdiff import files
from jaxdiff.checkpoints.fingerprint import changed, fingerprint
from jaxdiff.errors import UserError
from jaxdiff.parallel import processes

# What to do about a folder that cannot be written.
ROOM = "make room or see that it may be written, and give the same command again"
GO_ON = f"{ROOM}, which continues from the last checkpoint if there is one"
ANOTHER = "choose another --out"
# How tensorstore says what the disk refuses: `...: No space left on device [os_error_code='28'...`.
DISK = re.compile(r"([^:\s][^:\n]*) \[os_error_code=")


class CorruptCheckpoint(Exception):
    """A step that cannot be read back as it was written; the message says how."""


class WriteError(UserError):
    """What the disk refuses to take, such as more than it has room for.

    Arguments:
      folder: that cannot be written.
      reason: why, in the system's words; also an attribute.
      advice: what to do.
    """

    def __init__(self, folder, reason, advice=GO_ON):
        super().__init__(f"{folder} cannot be written ({reason}): {advice}.")
        self.reason = reason


@contextlib.contextmanager
def writing(folder, advice=GO_ON):
    """Says in a sentence what the disk refuses; raises WriteError."""
    try:
        yield
    except WriteError as error:
        raise WriteError(folder, error.reason, advice) from error
    except UserError:
        raise
    except OSError as error:
        raise WriteError(folder, error.strerror or error, advice) from error
    except ValueError as error:
        # tensorstore's; it raises others as well, which are no matter of the disk.
        if not (match := DISK.search(str(error))):
            raise
        raise WriteError(folder, match[1], advice) from error


@contextlib.contextmanager
def reading(path):
    """Says in a sentence what may not be looked at, as UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): ask for the right to, or give another run."
        ) from None


class Store:
    """Writes steps into a folder, asynchronously, and reads them back.

    What the disk refuses is raised as WriteError: by the save itself, or by whatever is called next.

    Arguments:
      folder: made if it does not exist.
      keep: how many of the latest steps stay; None keeps all, for ever.
    """

    def __init__(self, folder, keep=None):
        self.folder = pathlib.Path(folder).absolute()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, cleanup_tmp_directories=True, enable_async_checkpointing=True
        )
        together(self.folder, _set_notes_aside, self.folder)
        with writing(self.folder):
            self._manager = ocp.CheckpointManager(self.folder, options=options)
        self._silence = contextlib.ExitStack()
        self._silence.enter_context(_abandoned_silenced())

    def save(self, step, items, meta):
        """Begins to write a step; returns once the values are safe from later changes.

        A step that is there already is left alone: steps are a function of the run's config.

        Args:
          step: its number.
          items: {name: tree of arrays}.
          meta: {name: JSON value} to keep beside them.
        """
        self.wait()
        if step in complete_steps(self.folder):
            return
        fingerprints = {name: fingerprint(tree) for name, tree in items.items()}
        meta = files.with_checksum({"step": step, **meta, "fingerprints": fingerprints})
        args = {name: ocp.args.PyTreeSave(tree) for name, tree in items.items()}
        args = ocp.args.Composite(meta=ocp.args.JsonSave(meta), **args)
        with writing(self.folder):
            self._manager.save(step, args=args, force=True)

    def set_aside(self, after):
        """Moves folders of steps later than `after` into FOLDER/../damaged, and forgets them."""
        self.wait()
        together(self.folder.parent, self._set_aside, after)
        self._manager.reload()

    def _set_aside(self, after):
        if not processes.is_first():
            return
        late = [path for path in _step_folders(self.folder) if int(path.name) > after]
        for path in late:
            _move_aside(path)
        if late:
            steps = ", ".join(sorted((path.name for path in late), key=int))
            print(f"Moved {self.folder.name} after step {after} to damaged/: {steps}.")

    def wait(self):
        """Waits until everything is written; raises what went wrong while it was."""
        with writing(self.folder):
            self._manager.wait_until_finished()

    def close(self):
        """Waits, and ends the manager's threads."""
        with self._silence:
            try:
                with writing(self.folder), contextlib.closing(self._manager):
                    self.wait()
            except WriteError:
                time.sleep(0.2)  # for other writes in flight, which may still make files
                raise


def together(folder, function, *args, advice=GO_ON):
    """Calls a function that writes in `folder`; raises UserError in all processes if in any."""
    problem = None
    try:
        with writing(folder, advice):
            function(*args)
    except UserError as error:
        problem = error
    if processes.any_process(problem is not None):
        raise problem or WriteError(folder, "by another process", advice)


def _step_folders(folder):
    folder = pathlib.Path(folder)
    with reading(folder):
        if not folder.is_dir():
            return []
        return [path for path in folder.iterdir() if is_step(path.name) and path.is_dir()]


def is_step(name):
    """Whether a folder's name is a number as it is written here: no 007, no other digits."""
    return name.isascii() and name.isdecimal() and str(int(name)) == name


def _set_notes_aside(folder):
    """Renames orbax's notes on a step where they are damaged: it can do without, but not with."""
    if processes.is_first():
        for step in _step_folders(folder):
            notes = step / "_CHECKPOINT_METADATA"
            try:
                files.load_json(notes, checksum=False)
            except files.BadJson:
                notes.rename(f"{notes}.damaged")
            except OSError:
                pass  # there are none


def _move_aside(path):
    folder = path.parent.parent / "damaged"
    folder.mkdir(exist_ok=True)
    names = (folder / f"{path.parent.name}-{path.name}{suffix}" for suffix in _suffixes())
    path.rename(next(name for name in names if not name.exists()))


def _suffixes():
    yield ""
    number = 1
    while True:
        yield f"-{number}"
        number += 1


def complete_steps(folder):
    """Numbers of the steps in a folder that were written to the end, in order.

    Raises:
      UserError: if there is such a folder, and it cannot be read.
    """
    steps = _step_folders(folder)
    with reading(folder):
        return sorted(int(path.name) for path in steps if (path / "meta" / "metadata").exists())


def read_meta(folder, step, keys=()):
    """What was saved beside a step's items.

    Args:
      folder, step: where.
      keys: fields that it must have, beside those that `Store.save` adds.

    Raises:
      CorruptCheckpoint: if it cannot be read, or was changed since it was written.
    """
    path = pathlib.Path(folder) / str(step) / "meta" / "metadata"
    try:
        # Steps of earlier versions have no checksum.
        meta = files.load_json(path, ("step", "fingerprints", *keys), checksum=None)
    except OSError as error:
        raise CorruptCheckpoint(f"its metadata cannot be read ({error.strerror})") from None
    except files.BadJson as error:
        raise CorruptCheckpoint(f"its metadata {error}") from None
    wrong = [name for name, is_right in META.items() if name in meta and not is_right(meta[name])]
    if wrong:
        raise CorruptCheckpoint(f"its metadata has {wrong[0]} {str(meta[wrong[0]])[:100]}")
    if isinstance(step, int) and not step == meta["step"] == meta.get("batch", step):
        raise CorruptCheckpoint(
            f"its metadata is of step {meta['step']}, batch {meta.get('batch')}"
        )
    return meta


def _is_count(value):
    return type(value) is int and 0 <= value < 2**32


def _are_fingerprints(value):
    items = value.values() if isinstance(value, dict) else [None]
    return all(isinstance(sums, dict) and all(map(_is_count, sums.values())) for sums in items)


# Field of a step's metadata: whether a value of it can be right.
META = {
    "step": _is_count,
    "batch": _is_count,
    "fingerprints": _are_fingerprints,
    "ema": lambda value: (
        isinstance(value, list) and bool(value) and all(isinstance(name, str) for name in value)
    ),
    "dtype": lambda value: value in ("float32", "bfloat16"),
    "bad": lambda value: (
        isinstance(value, dict)
        and value.keys() == {"total", "in_row", "first"}
        and all(map(_is_count, value.values()))
    ),
}


def digest(meta):
    """Text that tells a step's averages from any others, by the checksums in its meta.

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
    path = pathlib.Path(folder).absolute() / str(step) / item
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            tree = checkpointer.metadata(path).item_metadata.tree
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)
    except Exception as error:  # of many kinds, as below
        raise CorruptCheckpoint(f"{item} cannot be read ({type(error).__name__})") from None


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
      CorruptCheckpoint: if files are missing, cut short or changed.
    """
    meta = read_meta(folder, step)
    if missing := [name for name in templates if name not in meta["fingerprints"]]:
        raise CorruptCheckpoint(f"its metadata has no fingerprints of {', '.join(missing)}")
    items = {}
    for name, template in templates.items():
        path = pathlib.Path(folder).absolute() / str(step) / name
        items[name] = _restore(path, template, partly)
        expected = meta["fingerprints"][name]
        if partly:
            expected = {n: v for n, v in expected.items() if n.split("/")[0] in template}
        if names := changed(items[name], expected):
            raise CorruptCheckpoint(
                f"{name} holds other values than were saved, first in {names[0]}"
            )
    if "step" in items and int(items["step"]["step"]) != meta["step"]:
        raise CorruptCheckpoint(f"its arrays are of step {int(items['step']['step'])}")
    return items, meta


def _restore(path, template, partly):
    # Averages are read by the dozen, and placing small arrays one by one takes orbax twice the
    # time. A training state is donated, and so may not lie in memory that NumPy owns.
    through_host = partly and processes.count() == 1
    restore_args = (
        jax.tree.map(lambda leaf: ocp.RestoreArgs(np.ndarray, leaf.dtype), template)
        if through_host
        else ocp.checkpoint_utils.construct_restore_args(template)
    )
    args = ocp.args.PyTreeRestore(template, restore_args, partial_restore=partly)
    with _abandoned_silenced():
        try:
            with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
                tree = checkpointer.restore(path, args=args)
            return _placed(tree, template) if through_host else tree
        # tensorstore, orbax and the file system raise errors of many kinds for damaged files.
        except Exception as error:
            message = str(error).strip().split("\n")[0][:200]
            reason = f"{type(error).__name__}: {message}"
        # Out of the except block no traceback keeps the abandoned reads alive any more. Those in
        # flight are given the time to end, as only then can they be collected.
        time.sleep(0.2)
        gc.collect()
    raise CorruptCheckpoint(f"{path.name} cannot be read ({reason})")


def _placed(arrays, template):
    """NumPy arrays on the devices where a template says; ValueError if it has other shapes."""
    for array, leaf in zip(jax.tree.leaves(arrays), jax.tree.leaves(template), strict=True):
        if array.shape != leaf.shape:
            raise ValueError(f"an array has the shape {array.shape}, not {leaf.shape}")
    return jax.device_put(arrays, jax.tree.map(lambda leaf: leaf.sharding, template))


@contextlib.contextmanager
def _abandoned_silenced():
    """Keeps "Exception ignored in: <coroutine ...>" of orbax off stderr.

    When one array cannot be read or written, orbax closes its event loop while others still are.
    Those complain as they end, that their loop is closed, and as they are collected.
    """
    outer = sys.unraisablehook

    def hook(unraisable):
        loop_closed = str(unraisable.exc_value) == "Event loop is closed"
        if not (loop_closed or inspect.iscoroutine(unraisable.object)):
            outer(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = outer
