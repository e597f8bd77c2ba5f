"""Locks, each of which one program holds at a time.

On a local disk a lock is the kernel's (flock), which frees it however its holder ends. On gs:// it
is an object that its holder writes again every BEAT seconds; one that is not written for DEAD
seconds belonged to a program that was killed, and is taken over. Other storage has no exclusive
writes, and so no locks.
"""

import contextlib
import datetime
import fcntl
import json
import os
import secrets
import signal
import socket
import sys
import threading
import time

from jaxdiff import buckets, files, stopping
from jaxdiff.errors import UserError

LOCK = ".lock"  # the name of a folder's
BEAT, DEAD = 15.0, 60.0  # seconds


class InUse(UserError):
    """What another program holds."""


@contextlib.contextmanager
def own_lock(path, what):
    """Holds a lock for this process alone while the context is open; `claims.lock` is for all.

    Args:
      path: of the lock.
      what: it protects, to begin a sentence.

    Raises:
      InUse: if another program holds it, naming its process, host and when it began.
    """
    release = take(path, what)
    try:
        yield
    finally:
        release()


def take(path, what, wait=True):
    """Locks a file, or raises InUse; returns a function that releases it.

    Args:
      path, what: as for `own_lock`.
      wait: whether to watch a holder on gs:// that may have been killed, for up to DEAD seconds.
    """
    release = try_lock(path, what)
    if release is None and wait and (dead := Watch().dead([path])):
        release = try_lock(path, what, dead[path])
    if release is None:
        raise InUse(
            f"{what} is in use by {holder(path)}: wait until that ends, or choose another place."
        )
    return release


def try_lock(path, what, generation=0):
    """Locks a file for this process alone, without waiting.

    Args:
      path: of the lock.
      what: it protects, to begin a sentence.
      generation: of a dead program's lock that is taken over, see `Watch`.

    Returns:
      A function that releases it; None if another program holds it.
    """
    kind = buckets.kind(path)
    if kind == "gs":
        return _take_object(path, what, generation)
    return (lambda: None) if kind else _take_local(path)


def is_a_file(path):
    """Whether a lock is a file while it is held, which every host sees that shares the place."""
    return buckets.kind(path) in ("", "gs")


def has_locks(path):
    """Whether the storage of a file that is there has locks."""
    if kind := buckets.kind(path):
        return kind == "gs"
    with files.reading(path), open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
    return True


def holder(path):
    """Who holds a lock, in words."""
    try:
        values = json.loads(files.read_text(path))
        return f"process {values['pid']} on {values['host']} since {values['since']}"
    except (UserError, ValueError, KeyError, TypeError):  # it has only just been locked, or freed
        return "another program"


def _take_local(path):
    """Locks a file and writes the holder into it; returns a function that releases it, or None."""
    while True:
        with files.writing(path):
            file = open(path, "a+", encoding="utf-8")  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        except OSError:
            pass  # a file system without locks: nothing is protected
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path), os.fstat(file.fileno())):
                break
        file.close()  # its holder has just removed it
    with files.writing(path):
        file.truncate(0)
        file.write(_own_name())
        file.flush()

    def release():
        try:
            files.remove(path)
        finally:
            file.close()

    return release


def _take_object(path, what, generation):
    """Writes an object, again and again in a thread; returns a function that releases it, or None.

    Args:
      path, what: as for `own_lock`.
      generation: that the object has until then; 0: there is none.
    """
    content = _own_name()
    if (generation := _swap(path, content, generation)) is None:
        return None
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


class Watch:
    """Which locks on gs:// are those of programs that were killed, which do not write them.

    On a disk there are none: the kernel frees them.
    """

    def __init__(self):
        self._seen = {}  # {path: (generation, when it was seen first)}

    def see(self, path):
        """Notes what a lock that another program holds is now; returns that, 0 where it is gone."""
        if buckets.kind(path) != "gs":
            return None
        with files.reading(path):
            now = buckets.generation(path)
        if self._seen.get(path, (None,))[0] != now:
            self._seen[path] = now, time.monotonic()
        return now

    def dead(self, paths):
        """{path: generation} of those that are not written for DEAD seconds, or are gone (0).

        It waits, for at most that time, until it is known of each that its holder is alive, or of
        one that it is not.
        """
        paths = [path for path in paths if buckets.kind(path) == "gs"]
        first = {path: self.see(path) for path in paths}
        if any(first.values()):
            what = f"{paths[0]}" if len(paths) == 1 else f"{len(paths)} locks"
            print(f"Waiting up to {DEAD:g} s to see whether who holds {what} is alive.", flush=True)
        while first:
            now = {path: self.see(path) for path in first}
            first = {path: now[path] for path in first if now[path] in (0, first[path])}
            late = time.monotonic() - DEAD
            found = {p: g for p, g in first.items() if g == 0 or self._seen[p][1] <= late}
            if found:
                return found
            stopping.check()
            time.sleep(DEAD / 60)
        return {}


def _generation_of(path, content):
    """The generation of an object that has this content; None if it has another, or is gone."""
    with files.reading(path):
        found = buckets.generation(path)
    return found if found and files.read_text(path) == content else None


def _swap(path, content, generation):
    with files.writing(path):
        return buckets.swap(path, content, generation)


def _own_name():
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
