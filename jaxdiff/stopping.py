"""SIGTERM ends a program with a line on stderr and status 143, as shells expect."""

import os
import signal
import sys

STATUS = 128 + signal.SIGTERM


def listen():
    """Lets SIGTERM end this program as an exception does, so that nothing is left half written."""
    signal.signal(signal.SIGTERM, stop)


def is_listening():
    """Whether SIGTERM ends this program by `stop`, and not by a handler of training's."""
    return signal.getsignal(signal.SIGTERM) is stop


def stop(*_):
    """Ends the program; a second SIGTERM kills it."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # Not by print, which may be what was interrupted.
    os.write(2, f"{os.path.basename(sys.argv[0])}: Stopped by SIGTERM.\n".encode())
    raise SystemExit(STATUS)
