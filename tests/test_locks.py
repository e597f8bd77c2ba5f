import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from jaxdiff.errors import UserError
from jaxdiff.locks import held
from tests.conftest import ROOT

HOLDER = """
import pathlib, sys, time
from jaxdiff.locks import held
with held(pathlib.Path(sys.argv[1]), "The folder"):
    print("held", flush=True)
    time.sleep(600)
"""


def refused(path):
    with pytest.raises(UserError) as caught, held(path, "The folder"):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_second_holder_hears_who_the_first_is(tmp_path):
    path = tmp_path / ".lock"
    with held(path, "The folder"):
        said = refused(path)
        assert f"process {os.getpid()} on {socket.gethostname()} since 20" in said
        refused(path)  # the refusal itself frees nothing
    assert not path.exists()
    with held(path, "The folder"):
        pass


def test_the_lock_of_a_killed_program_is_taken_over(tmp_path):
    path = tmp_path / ".lock"
    program = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert program.stdout.readline() == "held\n"
        assert f"process {program.pid} on" in refused(path)
    finally:
        program.send_signal(signal.SIGKILL)
        program.communicate()
    assert json.loads(path.read_text())["pid"] == program.pid  # nobody tidied it away
    with held(path, "The folder"):
        assert json.loads(path.read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("text", ["", "null", "{", "[]", '{"pid": 1}', "\x00"])
def test_what_an_old_lock_says_does_not_matter(tmp_path, text):
    path = tmp_path / ".lock"
    path.write_text(text)
    with held(path, "The folder"):
        path.write_text(text)
        refused(path)


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    assert "cannot be written" in refused(tmp_path / "file" / ".lock")
    assert "cannot be written" in refused(tmp_path / "nowhere" / ".lock")
