"""Locks, which one program holds at a time, and folders that are claimed by one request.

A lock is held by one program at a time. On a local disk it is the kernel's (flock), which frees it
however the holder ends. On gs:// it is an object that its holder writes again every BEAT seconds;
one that is not written for DEAD seconds belonged to a program that was killed, and is taken over.
Other storage has no exclusive writes, and so no locks.

A claim is permanent: a folder of results holds the settings of its request, written before the work
begins, and no other request may write there.
"""

import contextlib
import datetime
import fcntl
import fnmatch
import json
import os
import secrets
import signal
import socket
import sys
import threading
import time

from jaxdiff import buckets, files
from jaxdiff.arrays import load_npz, save_npz
from jaxdiff.checked_json import json_text, parse_json
from jaxdiff.errors import UserError
from jaxdiff.parallel import processes

LOCK = ".lock"  # the name of a folder's
BEAT, DEAD = 15.0, 60.0  # seconds
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
    if processes.any_process(problem is not None):
        is_disk = processes.any_process(isinstance(problem, files.WriteError))
        raise problem or _elsewhere(is_disk)
    return result


def _elsewhere(is_disk):
    """The error of a process that has none itself."""
    if is_disk:
        error = files.WriteError("A file", "another process says why")
    else:
        error = UserError("Another process says what is wrong.")
    error.is_elsewhere = True
    return error


# Locks.


@contextlib.contextmanager
def lock(path, what):
    """Holds the file `path` while the context is open, and removes it at the end.

    In a job of many processes the first one holds it for all of them; if it cannot, each raises.

    Args:
      path: of the lock, such as runs/birds/.lock.
      what: it protects, to begin a sentence: "The folder runs/birds".

    Raises:
      UserError: if another program holds it, naming its process, host and when it began.
    """
    take = KINDS.get(buckets.kind(path), lambda *_: None)
    release = in_first(take, path, what)
    try:
        yield
    finally:
        if release:
            release()


@contextlib.contextmanager
def own_lock(path, what):
    """The same for a local file, held by this process alone."""
    release = _take_local(path, what)
    try:
        yield
    finally:
        release()


def _take_local(path, what):
    """Locks a file and writes the holder into it; returns a function that releases it."""
    while True:
        with files.writing(path):
            file = open(path, "a+", encoding="utf-8")  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with file:
                file.seek(0)
                raise _in_use(what, file.read()) from None
        except OSError:
            pass  # a file system without locks: nothing is protected
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path), os.fstat(file.fileno())):
                break
        file.close()  # its holder has just removed it
    with files.writing(path):
        file.truncate(0)
        file.write(_holder())
        file.flush()

    def release():
        try:
            files.remove(path)
        finally:
            file.close()

    return release


def _take_object(path, what):
    """Writes an object, again and again in a thread; returns a function that releases it."""
    content = _holder()
    generation = _swap(path, content, 0) or _take_over(path, what, content)
    end = threading.Event()

    def beat(generation):
        while not end.wait(BEAT):
            with contextlib.suppress(UserError):  # the bucket cannot be reached just now
                generation = _swap(path, content, generation) or _generation_of(path, content)
                if generation is None:
                    text = f"{what} was taken over by another program: this one ends."
                    print(text, file=sys.stderr, flush=True)
                    os.kill(os.getpid(), signal.SIGTERM)
                    return

    thread = threading.Thread(target=beat, args=(generation,), daemon=True)
    thread.start()

    def release():
        end.set()
        thread.join()
        if files.exists(path) and files.read_text(path) == content:
            files.remove(path)

    return release


def _take_over(path, what, content):
    """Takes the lock of a killed program; UserError if its holder writes it meanwhile."""
    with files.reading(path):
        first = now = buckets.generation(path)
    print(f"{what} is locked: waiting up to {DEAD:g} s to see whether its holder is alive.")
    end = time.monotonic() + DEAD
    while now == first and time.monotonic() < end:
        time.sleep(DEAD / 20)
        with files.reading(path):
            now = buckets.generation(path)
    generation = _swap(path, content, now) if now in (0, first) else None
    if generation is None:
        raise _in_use(what, files.read_text(path))
    return generation


def _generation_of(path, content):
    """The generation of an object that has this content; None if it has another, or is gone."""
    with files.reading(path):
        found = buckets.generation(path)
    return found if found and files.read_text(path) == content else None


def _swap(path, content, generation):
    with files.writing(path):
        return buckets.swap(path, content, generation)


def _holder():
    """Who this program is, as text that no other writes."""
    since = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    return json.dumps(
        {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": since,
            "token": secrets.token_hex(8),
        }
    )


def _in_use(what, holder):
    try:
        values = json.loads(holder)
        holder = f"process {values['pid']} on {values['host']} since {values['since']}"
    except (ValueError, KeyError, TypeError):  # it has only just been locked
        holder = "another program"
    return UserError(
        f"{what} is in use by {holder}: wait until that ends, or choose another place."
    )


KINDS = {"": _take_local, "gs": _take_object}  # of storage, and how a lock is taken there


def is_lockable(path):
    """Whether what is at a path is protected by locks."""
    return buckets.kind(path) in KINDS


# Claims.


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
    is_new = in_first(_make, out)
    try:
        with lock(out / LOCK, f"The folder {out}"):
            in_first(_remove_partial, out, own)
            in_first(_claim, out, settings, name, own)
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


def _make(out):
    """Makes a folder of results, unless it is something else's; whether it is a new one."""
    for file, kind in OTHERS.items():
        if files.exists(out / file):
            raise UserError(f"{out} is the folder of {kind}, as it holds {file}: {OUT}.")
    is_new = not files.exists(out)
    files.make_folder(out)
    return is_new


def _remove_partial(out, own):
    """Removes what programs that were killed have left, in a folder that is held."""
    for folder in () if files.is_remote(out) else (out, *(out / name for name in own)):
        for name in fnmatch.filter(files.names(folder), ".*.partial"):
            files.remove_tree(folder / name)


def _claim(out, settings, name, own):
    """Writes the settings, unless they are there already, or something that is not theirs."""
    path = out / name
    if not files.exists(path):
        found = (file for file in files.names(out) for p in own if fnmatch.fnmatch(file, p))
        if theirs := next(found, None):
            raise UserError(f"{out} holds {theirs}, but no {name} that says what made it: {OUT}.")
        files.write_json(path, settings)
        return
    check_same(out, files.read_json(path, advice=OUT), settings)


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
    settings = json.loads(json.dumps(settings))  # as they would be read
    if different := [k for k in {**settings, **old} if k not in old or old[k] != settings.get(k)]:
        raise UserError(
            f"{out} holds the results of another request, with another {', '.join(different)}: "
            f"{OUT}."
        )
