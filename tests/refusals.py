"""Command lines that are refused, many from one process: to start a program takes seconds."""

import json
import subprocess
import sys

from tests.conftest import ROOT

# Imports what programs import, starts no backend, and becomes each program in a fork.
FORKS = """
import json, os, runpy, sys, tempfile, traceback
import jaxdiff.sampling.trained_model, jaxdiff.training.loop

def become(program, arguments):
    sys.argv = [program, *arguments]
    try:
        if program.endswith(".py"):
            runpy.run_path(program, run_name="__main__")
        else:
            runpy.run_module(program, run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        return stop.code or 0
    except BaseException:
        traceback.print_exc()
        return 2
    return 0

ends = []
for program, *arguments in json.load(sys.stdin):
    with tempfile.TemporaryFile("w+") as said:
        child = os.fork()
        if not child:
            os.dup2(said.fileno(), 2)
            code = become(program, arguments)
            sys.stderr.flush()
            os._exit(code)
        _, status = os.waitpid(child, 0)
        said.seek(0)
        ends.append((os.waitstatus_to_exitcode(status), said.read()))
print(json.dumps(ends))
"""


def check(name, program, lines):
    """Each of the command lines ends with status 1 and one sentence that begins with `name`.

    Args:
      name: that the program speaks of itself by.
      program: a file such as train.py, or a module.
      lines: [(arguments, words that the sentence holds)].
    """
    started = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKS],
        cwd=ROOT,
        input=json.dumps([[program, *map(str, arguments)] for arguments, _ in lines]),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert started.returncode == 0, started.stderr
    ends = json.loads(started.stdout.splitlines()[-1])
    for (arguments, words), (code, said) in zip(lines, ends, strict=True):
        assert (code, said.count("\n")) == (1, 1), (arguments, code, said)
        assert said.startswith(f"{name}: "), (arguments, said)
        assert words in said, (arguments, said)
