"""Command lines, run in a process of their own or in this one."""

import os
import subprocess
import sys
from unittest import mock

from tests.conftest import ROOT


def run(*arguments, devices=1):
    """(status, stdout, stderr) of Python with these arguments, in a process of its own."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        timeout=240,
    )
    return done.returncode, done.stdout, done.stderr


def call(main, *arguments):
    """The status that a command's `main` ends with in this process."""
    with mock.patch.object(sys, "argv", ["program", *map(str, arguments)]):
        try:
            main()
        except SystemExit as stop:
            return stop.code or 0
    return 0


def refused(main, capsys, lines):
    """Checks that command lines, [(arguments, words)], end in one sentence that has the words."""
    for arguments, words in lines:
        capsys.readouterr()
        assert call(main, *arguments) == 1, arguments
        said = capsys.readouterr().err
        assert said.count("\n") == 1, (arguments, said)
        assert words in said, (arguments, said)
