"""Ends all processes of a program where one of them fails, and says which.

A process that waits for the others in a computation waits in a call that no exception interrupts,
and JAX itself notices only processes that no longer run. So a process that fails writes why into
the store of JAX's coordination service, where a thread of every process looks every second.

Imports JAX only after `begin`.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from dataclasses import asdict, dataclass

FAILED, SEEN, HEARD = "jaxdiff/failed", "jaxdiff/seen", "jaxdiff/heard"  # keys in the store
EVERY = 1.0  # seconds between two looks of a process into it
GRACE = 5.0  # seconds in which the others may end by themselves
SILENT = 10.0  # seconds after which process 0 says that it has not heard of another
STOPPED = (130, 143)  # statuses of a program that was asked to end, which are those of all

_place = None  # (process, count) of this process once `begin` was called
_name = None  # the same for its messages


@dataclass(frozen=True)
class End:
    """How the first process that failed has ended.

    Attributes:
      process: its number.
      host: its host's name.
      status: what it exits with.
      sentence: why.
    """

    process: int
    host: str
    status: int
    sentence: str

    def __str__(self):
        return f"Process {self.process} of {_place[1]} ({self.host}) has ended: {self.sentence}"


def begin(process, count):
    """Begins to watch the others, in a thread that ends with the program.

    Args:
      process: this one's number, as JAX knows it.
      count: how many there are.
    """
    global _place
    _place = process, count
    name(process, count)
    threading.Thread(target=_watch, name="watchdog", daemon=True).start()


def name(process, count):
    """Lets this program's messages carry its process."""
    global _name
    _name = process, count


def place():
    """(process, count) of this process where several run the program; else None."""
    return _place


def line(message):
    """A sentence on one line, as a program ends with: `PROGRAM: process 3 of 16: MESSAGE`."""
    where = "process {} of {}: ".format(*_name) if _name else ""
    return f"{os.path.basename(sys.argv[0])}: {where}{' '.join(str(message).split())}"


def say(message):
    """Writes the line to stderr, from any thread and whatever the main one is doing."""
    os.write(2, f"{line(message)}\n".encode())


def other(wait=0.0):
    """The End of the process that failed first, if it is another; None: there is none so far.

    Args:
      wait: seconds in which it may still say so.
    """
    until = time.monotonic() + wait
    while (found := _read()) is None and time.monotonic() < until:
        time.sleep(EVERY / 4)
    return None if found is None or found.process == _place[0] else found


def end(status, sentence):
    """Ends this process at once; the others follow, and say why.

    Nothing else ends it: JAX would wait at exit until all others are there.

    Args:
      status: to exit with.
      sentence: why; not printed here.
    """
    sentence = " ".join(str(sentence).split())[:2000]
    mine = json.dumps(asdict(End(_place[0], socket.gethostname(), status, sentence)))
    _try("key_value_set", FAILED, mine)  # which fails if there is one
    _leave(status)


def follow(found):
    """Ends this process because of the End of another, which it prints."""
    _briefly(say, found)
    _leave(found.status if found.status in STOPPED else 1)


def _watch():
    heard = {}
    while (found := other()) is None:
        _beat(heard)
        time.sleep(EVERY)
    time.sleep(GRACE)
    follow(found)


def _beat(heard):
    """Lets the others hear of this process; process 0 says of whom it has not heard.

    No more than that: a process may be silent as it computes without letting other threads run.
    JAX's own heartbeats, which do not wait for Python, decide whether it is lost.

    Args:
      heard: {number: [the last time that it wrote, when process 0 read that, whether it said so]}.
    """
    now = time.monotonic()
    _try("key_value_set", f"{HEARD}/{_place[0]}", f"{now} {socket.gethostname()}", True)
    if _place[0]:
        return
    for key, text in _try("key_value_dir_get", HEARD) or ():
        number = int(key.rpartition("/")[2])
        written, host = text.split(" ", 1)
        before = heard.get(number)
        if before is None or before[0] != written:
            heard[number] = [written, now, False]
        elif now - before[1] > SILENT and not before[2]:
            before[2] = True
            say(
                f"Process {number} of {_place[1]} ({host}) has not been heard of for {SILENT:g} s: "
                "if it is lost, JAX ends the others within a minute."
            )


def _leave(status):
    """Exits; process 0, whose end would abort the others at once, after they have."""
    process, count = _place
    if process == 0:
        until = time.monotonic() + GRACE + 5 * EVERY
        while len(_try("key_value_dir_get", SEEN) or ()) < count - 1 and time.monotonic() < until:
            time.sleep(EVERY / 4)
        time.sleep(EVERY / 4)
    _briefly(_flush)
    if process:
        _try("key_value_set", f"{SEEN}/{process}", "")
    os._exit(status)


def _briefly(function, *args):
    """Calls a function that writes, and leaves it after GRACE: a pipe may be full and not read."""
    thread = threading.Thread(target=function, args=args, daemon=True)
    thread.start()
    thread.join(GRACE)


def _flush():
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()


def _read():
    text = _try("key_value_try_get", FAILED)
    return End(**json.loads(text)) if text else None


def _try(method, *args):
    """What a method of the store returns; None where it raises, as for a key that is not there.

    JAX has no public way to it. Without it a failed process is noticed when it no longer runs.
    """
    try:
        from jax._src.distributed import global_state

        return getattr(global_state.client, method)(*args)
    except Exception:
        return None
