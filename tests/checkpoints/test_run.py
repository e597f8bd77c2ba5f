import json

import jax
import pytest

from jaxdiff import config as config_lib
from jaxdiff.checkpoints.run import Run, resolve
from jaxdiff.checkpoints.store import Store
from jaxdiff.errors import UserError
from tests import tiny


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
        (lambda v: v.update(seed="nine"), "does not know"),
        (lambda v: v.pop("jaxdiff"), "not the config of a run"),
    ],
)
def test_a_strange_config_file_is_refused(folder, change, words):
    values = json.loads((folder / "config.json").read_text())
    change(values)
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=words):
        Run(folder).config()
