import contextlib
import json
import os
import socket
import threading

import jax
import numpy as np
import pytest
from etils import epath

from jaxdiff import files
from jaxdiff.checkpoints import run as run_lib
from jaxdiff.checkpoints.checkpointer import Checkpointer
from jaxdiff.checkpoints.run import LOCK, Run, new_run, read_ema, resolve
from jaxdiff.errors import UserError
from jaxdiff.parallel import processes
from jaxdiff.parallel.mesh import replicated
from tests import tiny
from tests.checkpoints import synthetic
from tests.disk import with_mode


def write(folder, *steps, ema):
    with contextlib.closing(Checkpointer(folder)) as made:
        for step in steps:
            made.save(step, {"ema": ema}, {"ema": list(ema)})


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    run = Run(epath.Path(tmp_path_factory.mktemp("run")) / "run")
    run.write_config(tiny.config())
    write(run.checkpoints, 20, 30, ema={"0.9": jax.numpy.zeros(3)})
    write(run.snapshots, 5, 30, ema={"0.9": jax.numpy.zeros(3)})
    return run.folder


def test_a_reference_names_a_step_or_the_latest(original):
    assert resolve(str(original)).step == 30
    for step, place in ((5, "snapshots"), (20, "checkpoints"), (30, "snapshots")):
        reference = resolve(f"{original}@{step}")
        assert (reference.step, reference.folder.name) == (step, place)
        assert str(reference) == f"{original}@{step}"
    assert resolve(f"{original}/@5").run.folder == original
    assert str(resolve(f"{original}@5:dropout=.25")) == f"{original}@5:dropout=0.25"


@pytest.mark.parametrize(
    ("ending", "words"),
    [
        ("@6", "5, 20, 30"),
        ("@x", "no step x"),
        ("@", "no step"),
        ("@20@30", "cannot be read"),
        (":ema=x", "ema=x, which is no number"),
        (":ema", "ema=, which is no number"),
        (":ema=.289", "0.2887"),
        (":colour=red", "'colour'"),
        (":ema=.07,ema=.08", "'ema'"),
        (":dropout=1", "dropout=1"),
        (":dropout=nan", "dropout=nan"),
        (":ema=.1", "traditional average"),
    ],
)
def test_references_that_make_no_sense_are_refused(original, ending, words):
    with pytest.raises(UserError, match=words):
        resolve(f"{original}{ending}")


@pytest.mark.parametrize("text", ["", "@5", ":ema=.1"])
def test_a_reference_without_a_run_is_refused(text):
    with pytest.raises(UserError, match="cannot be read"):
        resolve(text)


@pytest.mark.parametrize("run", ["none", "a@5/b:c/none", "/x/none"])
def test_a_reference_is_split_after_the_last_slash(run):
    for ending in ("", "@5", ":ema=0.1", "@5:ema=0.1,dropout=.1"):
        with pytest.raises(UserError, match=f"^{run} is not the folder of a run"):
            resolve(run + ending)


def test_what_is_no_run_or_may_not_be_read_is_refused(original, tmp_path):
    with pytest.raises(UserError, match="no config.json"):
        resolve(str(tmp_path / "nothing"))
    files.copy(original / "config.json", epath.Path(tmp_path) / "empty" / "config.json")
    with pytest.raises(UserError, match="no checkpoints"):
        resolve(str(tmp_path / "empty"))
    folder = tmp_path / "empty"
    for path in (folder, folder / "config.json"):
        with with_mode(path, 0), pytest.raises(UserError, match="cannot be read .Permission"):
            resolve(str(folder))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: v["model"].update(colour="red"), "colour"),
        (lambda v: v.update(seed="nine"), "seed"),
        (lambda v: v.pop("data"), "data"),
    ],
)
def test_a_config_survives_its_file_and_another_file_is_refused(tmp_path, change, words):
    run = Run(epath.Path(tmp_path))
    run.write_config(tiny.config())
    assert run.config() == tiny.config()
    values = json.loads(files.read_text(run.config_file))
    assert values["jaxdiff"]
    change(values)
    files.write_text(run.config_file, json.dumps(values))
    with pytest.raises(UserError, match='"checksum"'):
        run.config()
    del values["checksum"]
    files.write_text(run.config_file, json.dumps(values))
    with pytest.raises(UserError, match=words):
        run.config()


def test_a_folder_that_each_host_has_for_itself_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "is_first", lambda: False)  # which takes no lock
    monkeypatch.setattr(run_lib, "SECONDS_TO_SEE", 0.0)
    run = Run(epath.Path(tmp_path) / "run")
    with pytest.raises(UserError, match="does not see the file"), run.held("--workdir"):
        pass
    # A network disk may show late what process 0 has written.
    monkeypatch.setattr(run_lib, "SECONDS_TO_SEE", 60.0)
    run.folder.mkdir()
    timer = threading.Timer(0.3, (run.folder / LOCK).touch)
    timer.start()
    with run.held("--workdir"):
        timer.join()


def test_a_run_that_a_program_writes_is_held_by_it(original):
    before = files.names(original)
    with Run(original).held("--workdir"):
        words = rf"{original} is in use by process {os.getpid()} on {socket.gethostname()} since 2"
        with pytest.raises(UserError, match=words), Run(original).held("--workdir"):
            pass
        assert resolve(str(original)).step == 30  # who reads does not wait
    assert files.names(original) == before
    files.write_text(original / LOCK, '{"pid": 1, "host": "elsewhere", "since": "2020-01-01"}')
    with Run(original).held("--workdir"):  # it was killed
        pass


def test_a_folder_made_for_a_run_is_removed_where_nothing_came_of_it(tmp_path):
    run = Run(epath.Path(tmp_path) / "x" / "run")
    with pytest.raises(ZeroDivisionError), run.held("--workdir"):
        raise ZeroDivisionError
    assert not files.exists(run.folder)
    with run.held("--workdir"):
        files.write_text(run.folder / "file", "")
    assert files.names(run.folder) == ["file"]


def test_a_run_cannot_be_made_over_files_or_under_some_names(tmp_path):
    folder = epath.Path(tmp_path)
    files.write_text(folder / "full" / "file", "")
    for name in ("full", "full/file", "a@5", "a:b", "full/file/x"):
        with pytest.raises(UserError, match=name), new_run(folder / name):
            pass
    assert files.names(folder) == ["full"]
    with new_run(folder / "x@y:z" / "run") as run:
        assert run.folder == folder / "x@y:z" / "run"


@pytest.fixture(scope="module")
def averages(tmp_path_factory):
    """A run with snapshots of two power-function averages, and a later checkpoint."""
    run = synthetic.make_run(tmp_path_factory.mktemp("averages") / "run", every=40)
    ema = {"power_0.05": jax.numpy.zeros(3), "power_0.1": jax.numpy.ones(3)}
    write(run.checkpoints, 410, ema=ema)
    return run.folder


def read(reference, mesh):
    whole = jax.tree.map(lambda _: replicated(mesh), synthetic.shapes())
    return read_ema(resolve(reference), synthetic.shapes(), whole)


def test_a_length_names_an_average_of_the_latest_snapshot(averages):
    reference = resolve(f"{averages}:ema=.07")
    assert (reference.step, reference.ema, reference.folder.name) == (400, 0.07, "snapshots")
    assert str(reference) == f"{averages}@400:ema=0.07"
    assert resolve(str(reference)) == reference
    assert (resolve(str(averages)).ema, resolve(str(averages)).step) == (None, 410)
    for ending, words in (("@410:ema=.05", "410 .* 40, 80"), (":ema=.012", "cannot be trusted")):
        with pytest.raises(UserError, match=words):
            resolve(f"{averages}{ending}")


def test_averages_are_read_by_their_length(averages, one_device):
    whole = read(f"{averages}@400", one_device)
    for text, length in (("0.05", 0.05), ("1e-1", 0.1), ("0.07", 0.07)):
        got = read(f"{averages}@400:ema={text}", one_device)
        assert synthetic.distance(got, synthetic.average(length, 400)) < 0.03
    # Without a length: the first.
    assert synthetic.distance(whole, synthetic.average(0.05, 400)) < 1e-6
    shape = jax.ShapeDtypeStruct((3,), "float32")
    got = read_ema(resolve(str(averages)), shape, replicated(one_device))
    np.testing.assert_array_equal(got, 0)


def test_what_is_stored_in_bfloat16_is_read_in_float32(tmp_path, one_device):
    run = synthetic.make_run(tmp_path / "run", every=400, dtype="bfloat16")
    got = read(str(run.folder), one_device)
    assert got["bias"].dtype == np.float32
    assert 0 < synthetic.distance(got, synthetic.average(0.05, 400)) < 0.01
