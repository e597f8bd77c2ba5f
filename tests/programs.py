"""Command lines, run in a process of their own or in this one."""

import os
import signal
import socket
import subprocess
import sys
import time
from unittest import mock

from tests.conftest import FLAGS, ROOT


def start(*arguments, devices=1, **environment):
    """A process of Python with these arguments."""
    flags = f"--xla_force_host_platform_device_count={devices} {FLAGS}"
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": flags, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*arguments, devices=1):
    """(status, stdout, stderr) of Python with these arguments, in a process of its own."""
    process = start(*arguments, devices=devices)
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def start_together(*arguments, count=2, devices=1, **environment):
    """Processes of one program that join each other, each of some devices."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        port = listener.getsockname()[1]
    where = {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": str(count)}
    return [
        start(*arguments, devices=devices, JAX_PROCESS_ID=str(i), **where, **environment)
        for i in range(count)
    ]


def ended(programs, seconds=480):
    """[(status, stdout, stderr)] of processes; kills those that have not ended in time."""
    try:
        ends = [program.communicate(timeout=seconds) for program in programs]
    finally:
        for program in programs:
            program.kill()
    return [(program.returncode, *end) for program, end in zip(programs, ends, strict=True)]


def run_together(*arguments, count=2, devices=1, **environment):
    """What each of several processes of one program has printed, which must succeed."""
    programs = start_together(*arguments, count=count, devices=devices, **environment)
    ends = ended(programs)
    for status, _, err in ends:
        assert status == 0, err
    return [out for _, out, _ in ends]


def wait_for(condition, seconds=120):
    """Waits until a function returns something true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def call(main, *arguments):
    """The status that a command's `main` ends with in this process, whose signals stay."""
    before = signal.getsignal(signal.SIGTERM)
    with mock.patch.object(sys, "argv", ["program", *map(str, arguments)]):
        try:
            main()
        except SystemExit as stop:
            return stop.code or 0
        finally:
            signal.signal(signal.SIGTERM, before)
    return 0


def refused(main, capsys, lines):
    """Checks that command lines, [(arguments, words)], end in one sentence that has the words."""
    for arguments, words in lines:
        capsys.readouterr()
        assert call(main, *arguments) == 1, arguments
        said = capsys.readouterr().err
        assert said.count("\n") == 1, (arguments, said)
        assert words in said, (arguments, said)
