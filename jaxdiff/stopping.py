"""SIGTERM ends a program with a line on stderr and status 143, as shells expect.

A job that works in batches ends after the batch in flight, by SIGTERM and by Ctrl-C; a second
signal ends it at once.
"""

import contextlib
import os
import signal
import sys

STATUS = 128 + signal.SIGTERM
_asked = None  # the signal that `deferred` has caught


def listen():
    """Lets SIGTERM end this program as an exception does, so that nothing is left half written."""
    signal.signal(signal.SIGTERM, stop)


def is_listening():
    """Whether SIGTERM ends this program by `stop`, and not by a handler of training's."""
    return signal.getsignal(signal.SIGTERM) is stop


def stop(*_):
    """Ends the program; a second SIGTERM kills it."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _say("Stopped by SIGTERM.")
    raise SystemExit(STATUS)


@contextlib.contextmanager
def deferred():
    """While it is open SIGTERM and Ctrl-C take effect where `check` is called, or at its end.

    Signals that are handled in another way than a command line's stay as they are.
    """
    global _asked
    usual = {signal.SIGTERM: stop, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.getsignal(number) for number in usual}
    changed = [number for number in usual if before[number] is usual[number]]
    _asked = None
    try:
        for number in changed:
            # Only in the main thread, to which Python sends all signals.
            with contextlib.suppress(ValueError):
                signal.signal(number, _note)
        yield
        check()
    finally:
        for number in changed:
            with contextlib.suppress(ValueError):
                signal.signal(number, before[number])


def _note(number, _):
    global _asked
    _asked = number
    signal.signal(number, signal.SIG_DFL)
    _say("Ending after the batch in flight; a second signal ends the program at once.")


def check():
    """Ends the program if a signal has asked for that since `deferred` was entered."""
    global _asked
    asked, _asked = _asked, None
    if asked == signal.SIGINT:
        raise KeyboardInterrupt
    if asked == signal.SIGTERM:
        stop()


def _say(text):
    # Not by print, which may be what was interrupted.
    os.write(2, f"{os.path.basename(sys.argv[0])}: {text}\n".encode())
