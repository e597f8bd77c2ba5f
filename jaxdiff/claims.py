"""Folders and files that are claimed by one request, and what one process does for all.

A claim is permanent: a folder of results holds the settings of its request, written before the work
begins, and no other request may write there.
"""

import contextlib
import fnmatch
import json

from jaxdiff import files
from jaxdiff.arrays import load_npz, save_npz
from jaxdiff.checked_json import json_text, parse_json
from jaxdiff.errors import UserError, elsewhere
from jaxdiff.locks import LOCK, take, try_lock
from jaxdiff.parallel import processes

# What makes a folder one of something else: of a run, of a dataset.
OTHERS = {"config.json": "a run", "dataset_info.json": "a dataset"}
OUT = "choose another --out"


def in_first(function, *args):
    """What `function` returns in the first process, None in others; what it raises ends all."""
    return in_all(function if processes.is_first() else lambda *_: None, *args)


def in_all(function, *args):
    """What `function` returns in each process; what it raises in one of them ends all."""
    result = problem = None
    try:
        result = function(*args)
    except Exception as error:  # else the others would wait for this process permanently
        problem = error
    kinds = processes.everywhere((problem is not None) + isinstance(problem, files.WriteError))
    if any(kinds):
        who = f"rocess {kinds.index(max(kinds))} of {len(kinds)} says"
        if max(kinds) == 2:
            raise problem or elsewhere(files.WriteError("A file", f"p{who} why"))
        raise problem or elsewhere(UserError(f"P{who} what is wrong."))
    return result


@contextlib.contextmanager
def lock(path, what, wait=True):
    """Holds the file `path` while the context is open, and removes it at the end.

    In a job of many processes the first one holds it for all of them; if it cannot, each raises.

    Args:
      path: of the lock, such as runs/birds/.lock.
      what: it protects, to begin a sentence: "The folder runs/birds".
      wait: whether to watch a holder that may have been killed, which takes up to DEAD seconds.

    Raises:
      InUse: if another program holds it, naming its process, host and when it began.
    """
    release = in_first(take, path, what, wait)
    try:
        yield
    finally:
        if release:
            release()


@contextlib.contextmanager
def claimed_folder(out, settings, name, own=()):
    """Holds a folder for the results of one request while the context is open.

    The settings are written first, and stay; what fails before any result is there takes them back.

    Args:
      out: the folder, made if it is not there.
      settings: of the request, a dict that JSON can hold.
      name: of the JSON file that keeps them.
      own: patterns of files that will be written, which nobody else may have written there.

    Raises:
      UserError: if the folder is a run's or a dataset's, cannot be written, is in use by another
        program, or holds the results of other settings or files of somebody else.
    """
    is_new = in_first(make_folder, out)
    try:
        with lock(out / LOCK, f"The folder {out}"):
            for folder in (out, *(out / pattern for pattern in own)):
                in_first(remove_partial, folder)
            in_first(claim, out, settings, name, own)
            try:
                yield
            except BaseException:
                if processes.is_first() and {*files.names(out)} <= {name, LOCK}:
                    files.remove(out / name)
                raise
    except BaseException:
        if is_new:
            files.remove_if_empty(out)
        raise


def make_folder(out):
    """Makes a folder of results, unless it is something else's; whether it is a new one."""
    for file, kind in OTHERS.items():
        if files.exists(out / file):
            raise UserError(f"{out} is the folder of {kind}, as it holds {file}: {OUT}.")
    is_new = not files.exists(out)
    files.make_folder(out)
    return is_new


def remove_partial(folder, name="*"):
    """Removes what killed programs have left of a file, or of all, that nobody else writes now."""
    if not files.is_remote(folder):
        for each in fnmatch.filter(files.names(folder), f".{name}.*.partial"):
            files.remove_tree(folder / each)


def claim(out, settings, name, own=()):
    """Writes the settings of a request into a folder, unless they are there already.

    Of programs that do so at once one writes them. The arguments are those of `claimed_folder`, but
    the folder is not held: programs of one request may all work in it.

    Raises:
      UserError: if the folder is a run's or a dataset's, cannot be written, or holds the results of
        other settings or files of somebody else.
    """
    make_folder(out)
    path = out / name
    if not files.exists(path):
        found = (file for file in files.names(out) for p in own if fnmatch.fnmatch(file, p))
        if theirs := next(found, None):
            raise UserError(f"{out} holds {theirs}, but no {name} that says what made it: {OUT}.")
        try:
            with files.replacing(path, new=True) as file:
                file.write(json_text(settings).encode())
            return
        except files.WriteError:
            if not files.exists(path):  # else another program was faster
                raise
    check_same(out, files.read_json(path, advice=OUT), settings)


def take_back(out, settings, name, locks):
    """Removes the settings of a request that has no results, if nobody works on it.

    Args:
      out, settings, name: as of `claim`.
      locks: pattern of names of the locks in the folder that programs hold while they work.
    """
    held = fnmatch.filter(there := files.names(out), locks)
    if {*there} - {name, *held}:
        return
    if name in there and files.read_json(out / name, advice=OUT) != _as_read(settings):
        return
    for each in held:
        if (release := try_lock(out / each, each)) is None:
            return
        release()  # a killed program's
    files.remove(out / name)
    files.remove_if_empty(out)


@contextlib.contextmanager
def claimed_file(path, settings):
    """The same for one npz file, which `save` writes with its settings inside.

    Raises:
      UserError: if it cannot be written, is in use by another program, or holds something else.
    """
    in_first(files.make_folder, path.parent)
    with lock(path.with_name(f".{path.name}.lock"), f"The file {path}"):
        in_first(_check_file, path, settings)
        yield


def _check_file(path, settings):
    if not files.exists(path):
        return
    try:
        text = str(load_npz(path, ["settings"])["settings"])
    except UserError:
        raise UserError(f"{path} is not a file that this command wrote: {OUT}.") from None
    check_same(
        path, parse_json(text, f"The record of the settings in {path}", advice=OUT), settings
    )


def save(path, settings, arrays):
    """Writes a dict of arrays as npz, and beside them `settings`, as JSON text; in one process."""
    in_first(save_npz, path, {"settings": json_text(settings), **arrays})


def check_same(out, old, settings):
    """Refuses results of settings, as they were read, other than these.

    Raises:
      UserError: naming what differs.
    """
    settings = _as_read(settings)
    if different := [k for k in {**settings, **old} if k not in old or old[k] != settings.get(k)]:
        raise UserError(
            f"{out} holds the results of another request, with another {', '.join(different)}: "
            f"{OUT}."
        )


def _as_read(settings):
    """Settings as they are read from a file."""
    return json.loads(json.dumps(settings))
