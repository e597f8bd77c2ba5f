"""A file that one program holds at a time, so that two of them do not write in one place.

The lock is the kernel's (flock), which frees it however the holder ends; so one that a killed
program left behind is taken over by the next. The file says who holds it.
"""

import contextlib
import datetime
import fcntl
import json
import os
import socket

from jaxdiff.errors import UserError
from jaxdiff.parallel import processes

LOCK = ".lock"  # the name of a folder's


@contextlib.contextmanager
def held(path, what):
    """Holds the file `path` while the context is open, and removes it at the end.

    In a job of many processes the first one holds it for all of them; if it cannot, each raises.

    Args:
      path: of the lock, in a folder that exists; such as runs/digits/.lock.
      what: it protects, to begin a sentence: "The folder runs/digits".

    Raises:
      UserError: if another program holds it, naming its process, host and when it began; or if the
        file cannot be written.
    """
    file = problem = None
    if processes.is_first():
        try:
            file = _take(path, what)
        except UserError as error:
            problem = error
    if processes.any_process(problem is not None):
        raise problem or UserError(f"{what} cannot be used, as the first process says.")
    try:
        yield
    finally:
        if file is not None:
            path.unlink(missing_ok=True)
            file.close()


def _take(path, what):
    """The locked file, with this process's name in it."""
    while True:
        try:
            file = open(path, "a+", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise UserError(
                f"{what} cannot be written ({path}: {error.strerror}): choose another place."
            ) from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(file)
            file.close()
            raise UserError(
                f"{what} is in use by {holder}: wait until that ends, or choose another place."
            ) from None
        except OSError:
            pass  # a file system without locks: nothing is protected, as nothing can be
        if _is_there(path, file):
            break
        file.close()  # its holder has just removed it
    file.truncate(0)
    file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": _now()}))
    file.flush()
    return file


def _is_there(path, file):
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _holder(file):
    """Who holds a lock, in words."""
    try:
        file.seek(0)
        values = json.load(file)
        return f"process {values['pid']} on {values['host']} since {values['since']}"
    except (ValueError, KeyError, TypeError, OSError):  # it has only just been locked
        return "another program"


def _now():
    return datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
