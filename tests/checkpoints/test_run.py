import json
import os
import shutil
import socket

import jax
import numpy as np
import pytest

from jaxdiff import config as config_lib
from jaxdiff.checkpoints.checkpointer import Store
from jaxdiff.checkpoints.run import LOCK, Run, new_run, read_ema, resolve
from jaxdiff.errors import UserError
from jaxdiff.parallel.mesh import replicated
from tests import tiny
from tests.checkpoints import synthetic
from tests.disk import with_mode


@pytest.fixture
def folder(tmp_path):
    run = Run(tmp_path / "run")
    run.folder.mkdir()
    run.config_file.write_text(config_lib.to_json(tiny.config()))
    for place, steps in ((run.checkpoints, (20, 30)), (run.snapshots, (5, 30))):
        store = Store(place)
        for step in steps:
            store.save(step, {"ema": {"0.9": jax.numpy.zeros(3)}}, {"ema": ["0.9"]})
        store.close()
    return run.folder


def test_the_latest_step_is_meant_if_none_is_named(folder):
    assert resolve(str(folder)).step == 30


@pytest.mark.parametrize(("step", "place"), [(5, "snapshots"), (20, "checkpoints")])
def test_a_step_is_found_wherever_it_is(folder, step, place):
    reference = resolve(f"{folder}@{step}")
    assert (reference.step, reference.folder.name) == (step, place)
    assert str(reference) == f"{folder}@{step}"


@pytest.mark.parametrize("step", ["6", "x", ""])
def test_a_missing_step_names_those_that_exist(folder, step):
    with pytest.raises(UserError, match="5, 20, 30"):
        resolve(f"{folder}@{step}")


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="no config.json"):
        resolve(str(tmp_path / "nothing"))


def test_a_run_that_may_not_be_read_is_refused_in_a_sentence(folder):
    for path, mode in ((folder, 0), (folder / "config.json", 0), (folder / "checkpoints", 0o444)):
        with (
            with_mode(path, mode),
            pytest.raises(UserError, match=rf"{path} cannot be read \(Permission denied\)"),
        ):
            resolve(f"{folder}@20")


def test_a_run_without_checkpoints_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(config_lib.to_json(tiny.config()))
    with pytest.raises(UserError, match="no checkpoints"):
        resolve(str(tmp_path))


def test_a_config_survives_its_file(folder):
    assert Run(folder).config() == tiny.config()
    assert json.loads((folder / "config.json").read_text())["jaxdiff"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: v["model"].update(colour="red"), "colour"),
        (lambda v: v.update(seed="nine"), "seed"),
        (lambda v: v.pop("jaxdiff"), "jaxdiff"),
        (lambda v: v.pop("mesh"), "mesh"),
    ],
)
def test_a_strange_config_file_is_refused(folder, change, words):
    values = json.loads((folder / "config.json").read_text())
    del values["checksum"]
    change(values)
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=words):
        Run(folder).config()


def test_a_run_that_a_program_writes_is_held_by_it(folder, tmp_path):
    run = Run(folder)
    before = sorted(folder.rglob("*"))
    with run.held("--workdir"):
        words = rf"{folder} is in use by process {os.getpid()} on {socket.gethostname()} since 2"
        with pytest.raises(UserError, match=words), run.held("--workdir"):
            pass
        with pytest.raises(UserError, match="in use by"), new_run(folder):
            pass
        # Another run is another matter, and who reads does not wait.
        with Run(tmp_path / "other").held("--workdir"):
            assert resolve(str(folder)).step == 30
    assert sorted(folder.rglob("*")) == before
    with run.held("--workdir"):
        pass


def test_what_a_killed_program_held_is_taken_over(folder):
    (folder / LOCK).write_text('{"pid": 1, "host": "elsewhere", "since": "2020-01-01"}')
    with Run(folder).held("--workdir"):
        pass


def test_folders_made_for_a_run_go_where_nothing_came_of_it(tmp_path):
    (tmp_path / "runs").mkdir()
    for place in (tmp_path / "runs" / "a", tmp_path / "x" / "y" / "z"):
        with pytest.raises(ZeroDivisionError), Run(place).held("--workdir"):
            raise ZeroDivisionError
    assert [path.name for path in tmp_path.rglob("*")] == ["runs"]
    with Run(tmp_path / "x" / "y").held("--workdir"):
        (tmp_path / "x" / "y" / "file").touch()
    assert (tmp_path / "x" / "y" / "file").exists()


def test_a_run_cannot_be_made_over_files_or_under_some_names(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "full")
    for name in ("full", "link", "full/file", "a@5", "a:b", "full/file/x"):
        with pytest.raises(UserError, match=name), new_run(tmp_path / name):
            pass
    with pytest.raises(UserError, match="gs://bucket/run"), new_run("gs://bucket/run"):
        pass
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full", "link"]
    with new_run(tmp_path / "x@y:z" / "run") as run:
        assert run.folder == tmp_path / "x@y:z" / "run"


@pytest.fixture
def averages(tmp_path):
    """A run with snapshots of two power-function averages, and a later checkpoint."""
    run = synthetic.make_run(tmp_path / "run", every=40)
    store = Store(run.checkpoints)
    ema = {"power_0.05": jax.numpy.zeros(3), "power_0.1": jax.numpy.ones(3)}
    store.save(410, {"ema": ema}, {"ema": list(ema)})
    store.close()
    return run.folder


def read(reference, mesh):
    return read_ema(resolve(reference), synthetic.shapes(), placed_whole(mesh))


def placed_whole(mesh):
    return jax.tree.map(lambda _: replicated(mesh), synthetic.shapes())


def test_a_length_names_an_average_of_the_latest_snapshot(averages):
    reference = resolve(f"{averages}:ema=.07")
    assert (reference.step, reference.ema, reference.folder.name) == (400, 0.07, "snapshots")
    assert str(reference) == f"{averages}@400:ema=0.07"
    assert resolve(str(reference)) == reference
    assert resolve(str(averages)).ema is None
    assert resolve(str(averages)).step == 410


def test_averages_are_read_by_their_length(averages, one_device):
    whole = read(f"{averages}@400", one_device)
    for text, length in (("0.05", 0.05), ("1e-1", 0.1), ("0.07", 0.07)):
        got = read(f"{averages}@400:ema={text}", one_device)
        assert synthetic.distance(got, synthetic.average(length, 400)) < 0.03
    # Without a length: the first.
    assert synthetic.distance(whole, synthetic.average(0.05, 400)) < 1e-6


def test_one_of_several_averages_is_read_from_a_checkpoint(averages, one_device):
    shape = jax.ShapeDtypeStruct((3,), "float32")
    got = read_ema(resolve(str(averages)), shape, replicated(one_device))
    np.testing.assert_array_equal(got, 0)


def test_what_is_stored_in_bfloat16_is_read_in_float32(tmp_path, one_device):
    run = synthetic.make_run(tmp_path / "run", every=40, dtype="bfloat16")
    got = read(str(run.folder), one_device)
    assert got["bias"].dtype == np.float32
    distance = synthetic.distance(got, synthetic.average(0.05, 400))
    assert 0 < distance < 0.01


@pytest.mark.parametrize(
    ("ending", "words"),
    [
        ("@400:ema=x", "ema=x, which is no number: write RUN@STEP:ema=0.12"),
        ("@400:ema", "ema=, which is no number"),
        ("@400:ema=.289", "must lie between 1e-09 and 0.2887"),
        (
            ":colour=red",
            "the option 'colour', which is unknown: the options are ema=VALUE, dr",
        ),
        (":dropout=1", "dropout=1: it must lie in"),
        (":dropout=-.1", "dropout=-0.1: it must lie in"),
        (":ema=.07,ema=.08", "says ema twice"),
        ("@410:ema=.05", "no snapshot of step 410 .* 40, 80"),
        ("@x:ema=.05", "no step x"),
        ("@40@80", "cannot be read: write RUN, RUN@STEP or RUN@STEP:ema=0.12"),
        (":ema=.012", "cannot be trusted: from 10 snapshots"),
    ],
)
def test_references_that_make_no_sense_are_refused(averages, ending, words):
    with pytest.raises(UserError, match=words):
        resolve(f"{averages}{ending}")


def test_a_run_with_the_traditional_average_has_no_lengths(folder):
    with pytest.raises(UserError, match=r"traditional average.*training.power_ema=\(0.05,0.1\)"):
        resolve(f"{folder}@30:ema=.1")


@pytest.mark.parametrize("name", ["a@7", "a:b", "a:ema=.1", "x:y/run"])
def test_a_run_s_name_may_hold_what_options_are_written_with(folder, tmp_path, name):
    place = tmp_path / name
    place.parent.mkdir(exist_ok=True)
    folder.rename(place)
    assert resolve(str(place)).run.folder == place
    assert resolve(f"{place}@20").step == 20
    with pytest.raises(UserError, match="unknown: the options are ema"):
        resolve(f"{place}@20:color=red")


def test_of_two_runs_the_longer_name_is_meant(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "run@5")
    assert resolve(f"{folder}@5").run.folder == tmp_path / "run@5"
    assert resolve(f"{folder}/@5").run.folder == folder


@pytest.mark.parametrize("text", ["", "@5", ":ema=.1"])
def test_a_reference_without_a_run_is_refused(text):
    with pytest.raises(UserError, match="names no run"):
        resolve(text)
