import json
import os
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
from etils import epath

from jaxdiff import claims, files
from jaxdiff.errors import UserError
from tests.conftest import ROOT

HOLDER = """
import sys, time
from etils import epath
from jaxdiff.claims import lock
with lock(epath.Path(sys.argv[1]), "The folder"):
    print("held", flush=True)
    time.sleep(600)
"""
SETTINGS = {"seed": 3, "classes": (1, 2)}
OWN = ("samples_*.npz", "grid.png")


@pytest.fixture
def folder(tmp_path):
    return epath.Path(tmp_path)


def claim(out, settings=SETTINGS):
    return claims.claimed_folder(out, settings, "settings.json", OWN)


def refused(context):
    """The sentence that a context is refused with."""
    with pytest.raises(UserError) as caught, context:
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


def enter(context):
    with context:
        pass


def test_a_second_holder_is_refused_and_says_who_the_first_is(folder):
    path = folder / ".lock"
    with claims.lock(path, "The folder"):
        said = refused(claims.lock(path, "The folder"))
        assert f"process {os.getpid()} on {socket.gethostname()} since 20" in said
        refused(claims.lock(path, "The folder"))  # the refusal itself frees nothing
    assert files.names(folder) == []
    enter(claims.lock(path, "The folder"))


def test_the_lock_of_a_killed_program_is_taken_over(folder):
    path = folder / ".lock"
    program = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert program.stdout.readline() == "held\n"
        assert f"process {program.pid} on" in refused(claims.lock(path, "The folder"))
    finally:
        program.send_signal(signal.SIGKILL)
        program.communicate()
    assert json.loads(files.read_text(path))["pid"] == program.pid
    with claims.lock(path, "The folder"):
        assert json.loads(files.read_text(path))["pid"] == os.getpid()
        files.write_text(folder / "other", "")  # another file of the folder does not matter
        (folder / ".lock").write_text("{")  # nor what is written there
        assert "another program" in refused(claims.lock(path, "The folder"))


def test_a_place_that_cannot_be_written_is_refused(folder):
    (folder / "file").touch()
    for path in (folder / "file" / ".lock", folder / "nowhere" / ".lock"):
        assert "cannot be written" in refused(claims.lock(path, "The folder"))


def test_a_folder_is_claimed_before_work_and_stays_so(folder):
    out = folder / "a" / "b"
    with claim(out):
        kept = json.loads(files.read_text(out / "settings.json"))
        assert (kept["seed"], kept["classes"]) == (3, [1, 2])
        assert "is in use by process" in refused(claim(out))
        files.write_bytes(out / "grid.png", b"done")
    assert files.names(out) == ["grid.png", "settings.json"]
    assert "seed" in refused(claim(out, {**SETTINGS, "seed": 4}))
    assert "steps" in refused(claim(out, {**SETTINGS, "steps": 5}))
    assert "classes" in refused(claim(out, {"seed": 3}))
    with claim(out):  # the same request continues
        assert files.read_bytes(out / "grid.png") == b"done"
    text = files.read_text(out / "settings.json")
    for other in (text.replace("3", "4"), "", "[]", '{"seed": 3}'):
        files.write_text(out / "settings.json", other)
        refused(claim(out, {**SETTINGS, "seed": 4}))
        assert files.read_text(out / "settings.json") == other


def test_what_fails_before_there_is_a_result_leaves_the_folder_free(folder):
    out = folder / "out"
    for error in (UserError("no"), KeyboardInterrupt()):
        with pytest.raises(type(error)), claim(out):
            raise error
        assert not files.exists(out)
    with pytest.raises(UserError), claim(out):  # noqa: PT012
        (out / "grid.png").touch()
        raise UserError("no")
    assert files.names(out) == ["grid.png", "settings.json"]


def test_what_killed_programs_have_left_is_removed(folder):
    partial = ".x.npz.12-ab.partial"
    for _ in range(2):
        with claims.claimed_folder(folder, SETTINGS, "settings.json", (*OWN, "shards")):
            assert not any(path.endswith(".partial") for path in files.walk(folder))
            for path in (folder / partial, folder / "shards" / partial):
                files.write_bytes(path, b"half")
    enter(claims.claimed_folder(folder, SETTINGS, "settings.json", (*OWN, "shards")))
    assert files.names(folder) == ["settings.json", "shards"]
    assert files.names(folder / "shards") == []


@pytest.mark.parametrize("error", [ValueError("no"), UserError("no"), files.WriteError("x", "no")])
def test_what_one_process_raises_ends_all(monkeypatch, error):
    def fail():
        raise error

    asked = []  # by the first process, which the second is given
    monkeypatch.setattr(claims.processes, "everywhere", lambda n: asked.append([n, 0]) or [n, 0])
    with pytest.raises(type(error), match="no") as caught:
        claims.in_first(fail)
    assert not getattr(caught.value, "is_elsewhere", False)
    monkeypatch.setattr(claims.processes, "is_first", lambda: False)
    monkeypatch.setattr(claims.processes, "everywhere", lambda _: asked[0])
    is_disk = isinstance(error, files.WriteError)
    kind = files.WriteError if is_disk else UserError
    with pytest.raises(kind, match="rocess 0 of 2 says") as caught:
        claims.in_first(fail)
    assert caught.value.is_elsewhere


@pytest.mark.parametrize(
    "name", ["grid.png", "samples_4x8x8x1.npz", "config.json", "dataset_info.json"]
)
def test_folders_of_somebody_else_are_refused_and_left_as_they_are(folder, name):
    (folder / name).write_bytes(b"theirs")
    (folder / "notes.txt").touch()
    assert name in refused(claim(folder))
    assert files.names(folder) == sorted([name, "notes.txt"])
    assert files.read_bytes(folder / name) == b"theirs"


def test_places_that_cannot_be_are_refused(folder):
    (folder / "file").touch()
    for out in (folder / "file", folder / "file" / "x", folder / ("x" * 5000)):
        refused(claim(out))
    assert files.names(folder) == ["file"]


def test_a_file_is_claimed_and_only_its_own_request_replaces_it(folder):
    path = folder / "new" / "x.npz"
    with claims.claimed_file(path, SETTINGS):
        assert "is in use by process" in refused(claims.claimed_file(path, SETTINGS))
        claims.save(path, SETTINGS, {"a": np.arange(3)})
    assert files.names(path.parent) == ["x.npz"]
    enter(claims.claimed_file(path, SETTINGS))
    assert "seed" in refused(claims.claimed_file(path, {**SETTINGS, "seed": 4}))
    for content in (b"", b"text", path.read_bytes()[:-30]):
        path.write_bytes(content)
        assert "x.npz" in refused(claims.claimed_file(path, SETTINGS))
        assert path.read_bytes() == content
    np.savez(path, a=1)
    assert "x.npz" in refused(claims.claimed_file(path, SETTINGS))
    refused(claims.claimed_file(folder, SETTINGS))
