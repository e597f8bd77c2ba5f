"""Stopping training by SIGTERM or Ctrl-C: the loop saves after the step in progress, and ends.

Imports JAX only when the loop asks, so that a program can begin to listen before its long imports.
"""

import itertools
import os
import signal
import threading

from jaxdiff.parallel import watchdog

SIGNALS = (signal.SIGTERM, signal.SIGINT)
_questions = itertools.count(1)  # of this process to the others, as all of them count


class Left(Exception):
    """An evaluation is left, in all processes, as the program was asked to stop."""


class Interrupt:
    """Catches the first SIGTERM or SIGINT while it is entered; a second one acts as usual.

    Where `jax.distributed` is in use SIGTERM is JAX's to catch: its preemption service makes all
    processes agree on a step to stop at. Ctrl-C is passed on to it.

    Arguments:
      ends_program: end the program where nothing has to be saved, which is until the loop asks for
        the first time, and at a second signal: with a line, and the status that shells expect. At
        once, whatever is being compiled; no exception does this, as JAX drops those that are raised
        while it collects garbage.

    Attributes:
      number: of the signal that was caught; None before.
    """

    def __init__(self, ends_program=False):
        self.number = None
        self._ends_program = ends_program
        self._is_looping = self._is_agreed = False
        self._previous, self._pipe = {}, None

    @property
    def status(self):
        """What a program exits with, as shells expect it: 128 + the signal's number; else 0."""
        return 0 if self.number is None else 128 + self.number

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():  # no other may
            self._previous = {number: signal.signal(number, self._catch) for number in SIGNALS}
            if self._ends_program:
                received, self._pipe = os.pipe()
                os.set_blocking(self._pipe, False)
                signal.set_wakeup_fd(self._pipe)
                threading.Thread(target=self._listen, args=(received,), daemon=True).start()
        return self

    def __exit__(self, *_):
        if self._pipe is not None:
            signal.set_wakeup_fd(-1)
            os.close(self._pipe)  # which ends the thread
            self._pipe = None
        self._restore(SIGNALS)

    def _catch(self, number, frame):
        """The signals' handler, which Python calls between two instructions of the main thread."""
        del frame
        if self.number is not None:
            return
        self.number = number
        passes_on = self._is_looping and _is_distributed()
        if not self._ends_program:
            self._restore((number,) if passes_on else SIGNALS)
        if passes_on:
            os.kill(os.getpid(), signal.SIGTERM)

    def _restore(self, numbers):
        for number in numbers:
            if number in self._previous:
                signal.signal(number, self._previous.pop(number))

    def _listen(self, pipe):
        """Reads the number of each signal as it arrives, in a thread of its own."""
        caught = 0
        with open(pipe, "rb", buffering=0) as numbers:
            while byte := numbers.read(1):
                caught += byte[0] in SIGNALS
                if caught > 1 or (caught and not self._is_looping):
                    _end_program(byte[0], caught)

    def asked(self):
        """Whether to stop now; once it is true it stays.

        Every process asks as often as the others: after each step, and before each batch of an
        evaluation. JAX lets them agree on a number of the question at which all of them stop.
        """
        self._is_looping = True
        if not _is_distributed():
            return self.number is not None
        if not self._is_agreed:
            from jax.experimental import multihost_utils

            self._is_agreed = multihost_utils.reached_preemption_sync_point(next(_questions))
        if self._is_agreed:
            self.number = self.number or signal.SIGTERM
        return self._is_agreed

    def leave_if_asked(self):
        """Raises Left if `asked`."""
        if self.asked():
            raise Left


def _end_program(number, caught):
    name = signal.Signals(number).name
    what = (
        f"Stopped by {name} before there was anything to save"
        if caught == 1
        else f"Stopped by a second signal, {name}, whatever was being saved"
    )
    sentence = f"{what}; the same command starts again."
    watchdog.say(sentence)
    if watchdog.place():
        watchdog.end(128 + number, sentence)
    os._exit(128 + number)


def _is_distributed():
    import jax

    return jax.distributed.is_initialized()
