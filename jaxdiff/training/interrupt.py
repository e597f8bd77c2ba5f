"""Stopping a run from outside: SIGTERM or Ctrl-C asks, the loop saves and ends."""

import signal

from jax.experimental import multihost_utils

from jaxdiff.parallel import processes


class Interrupt:
    """Catches the first SIGTERM or SIGINT while it is entered; a second one acts as usual.

    With many processes the signal is JAX's to catch (its preemption service makes all processes
    agree on a step to stop at), so nothing is installed.
    """

    def __init__(self):
        self._asked = False
        self._previous = {}

    def __enter__(self):
        if processes.count() == 1:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._catch)
        return self

    def __exit__(self, *_):
        self._restore()

    def _catch(self, number, frame):
        del number, frame
        self._asked = True
        self._restore()

    def _restore(self):
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def asked(self, step):
        """Whether to stop after this step; every process asks at every step."""
        if processes.count() == 1:
            return self._asked
        return multihost_utils.reached_preemption_sync_point(step)
