"""Stopping a run from outside: SIGTERM or Ctrl-C asks, the loop saves and ends.

Imports JAX only when the loop asks, so that a program can begin to listen before its long imports.
"""

import os
import signal
import sys
import threading


class Interrupt:
    """Catches the first SIGTERM or SIGINT while it is entered; a second one acts as usual.

    Until the loop has asked once there is nothing to save, and the program ends: SIGTERM by one
    line and status 143, Ctrl-C by KeyboardInterrupt. Afterwards the signal is what the loop asks
    for.

    Where `jax.distributed` is in use SIGTERM is JAX's to catch: its preemption service makes all
    processes agree on a step to stop at. Ctrl-C is passed on to it.

    Attributes:
      number: of the signal that was caught; None before.
    """

    def __init__(self):
        self.number = None
        self._is_looping = False
        self._previous = {}

    @property
    def status(self):
        """What a program exits with, as shells have it: 128 + the signal's number; else 0."""
        return 0 if self.number is None else 128 + self.number

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():  # no other may
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._catch)
        return self

    def __exit__(self, *_):
        self._restore()

    def _catch(self, number, frame):
        del frame
        self.number = number
        if self._is_looping and _is_distributed():
            signal.signal(number, self._previous.pop(number))
            os.kill(os.getpid(), signal.SIGTERM)
            return
        self._restore()
        if self._is_looping:
            return
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        name = os.path.basename(sys.argv[0])
        # Not by print, which may be what was interrupted.
        os.write(2, f"{name}: Stopped by SIGTERM before the first step.\n".encode())
        raise SystemExit(self.status)

    def _restore(self):
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def asked(self, step):
        """Whether to stop after this step; every process asks at every step."""
        self._is_looping = True
        if not _is_distributed():
            return self.number is not None
        from jax.experimental import multihost_utils

        if not multihost_utils.reached_preemption_sync_point(step):
            return False
        self.number = self.number or signal.SIGTERM
        return True


def _is_distributed():
    import jax

    return jax.distributed.is_initialized()
