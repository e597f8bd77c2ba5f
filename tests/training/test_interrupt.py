import os
import signal
import subprocess
import sys
import threading

import pytest

from jaxdiff.training.interrupt import Interrupt
from tests.conftest import ROOT


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_loop_is_asked_to_stop_once(number, status):
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    with Interrupt() as interrupt:
        assert not interrupt.asked()
        os.kill(os.getpid(), number)
        assert interrupt.asked()
        # A second one acts as it did before.
        assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == before
    assert interrupt.status == status


def test_nobody_asked():
    with Interrupt() as interrupt:
        assert not interrupt.asked()
    assert interrupt.status == 0


def test_a_second_ctrl_c_is_raised():
    with pytest.raises(KeyboardInterrupt), Interrupt():  # noqa: PT012
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_in_another_thread_signals_are_left_alone():
    seen = []

    def enter():
        with Interrupt():
            seen.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [before]


# A main thread that cannot act on signals, as while a step is compiled: it is in a call that is
# not interrupted.
PROGRAM = """
import os, sys, threading, types
alone = types.SimpleNamespace(is_initialized=lambda: False)
sys.modules["jax"] = types.SimpleNamespace(distributed=alone)  # whose import takes seconds
from jaxdiff.training.interrupt import Interrupt
signals = [int(text) for text in sys.argv[2:]]
with Interrupt(ends_program=True) as interrupt:
    if sys.argv[1] == "looping":
        interrupt.asked()
    def send():
        for number in signals:
            os.kill(os.getpid(), number)
    threading.Timer(0.1, send).start()
    held = threading.Lock()
    held.acquire()
    for _ in range(20):
        held.acquire(timeout=0.05) if sys.argv[1] == "looping" else held.acquire(timeout=60)
    print("saved", flush=True)
sys.exit(interrupt.status)
"""


@pytest.mark.parametrize(
    ("state", "signals", "status", "saved"),
    [
        ("starting", [signal.SIGTERM], 143, False),
        ("starting", [signal.SIGINT], 130, False),
        ("looping", [signal.SIGTERM], 143, True),
        ("looping", [signal.SIGINT], 130, True),
        ("looping", [signal.SIGTERM, signal.SIGINT], 130, False),
    ],
)
def test_a_program_ends_at_once_where_nothing_is_to_be_saved(state, signals, status, saved):
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, state, *(str(int(number)) for number in signals)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert ended.returncode == status
    assert ("saved" in ended.stdout) == saved
    assert ended.stderr.count("\n") == (0 if saved else 1)
