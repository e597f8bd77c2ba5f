"""Whole runs: of a small network, and of networks with every kind of condition."""

import csv
import logging
import pathlib
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from PIL import Image as Picture

from jaxdiff import files
from jaxdiff.checkpoints import checkpointer
from jaxdiff.checkpoints.run import Run
from jaxdiff.config import ADM, EDM, Heun, Image, Label, Vector
from jaxdiff.data.source import from_arrays
from jaxdiff.errors import UserError
from jaxdiff.parallel import mesh as mesh_lib
from jaxdiff.training import loop, workdir
from jaxdiff.training.compiled import state_template
from jaxdiff.training.space import space
from jaxdiff.training.state import all_finite
from jaxdiff.training.task import Task
from tests import tiny
from tests.disk import small_files
from tests.training import events, linear

pytestmark = pytest.mark.usefixtures("alone")


def train(folder, config):
    loop.train(config, folder)
    return Run(epath.Path(folder))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, alone):
    """A run of 20 steps in one go."""
    return train(tmp_path_factory.mktemp("run") / "whole", linear.config())


@pytest.fixture
def copy(finished, tmp_path):
    shutil.copytree(finished.folder, tmp_path / "copy")
    return Run(epath.Path(tmp_path) / "copy")


def saved_values(folder, step):
    """Every array of a checkpoint as it is on disk, by name."""
    import orbax.checkpoint as ocp

    values = {}
    for item in ("params", "opt_state", "ema", "step"):
        path = folder / str(step) / item
        restored = ocp.PyTreeCheckpointer().restore(
            path,
            restore_args=jax.tree.map(
                lambda _: ocp.RestoreArgs(restore_type=np.ndarray),
                ocp.PyTreeCheckpointer().metadata(path).item_metadata.tree,
            ),
        )
        for name, leaf in jax.tree.leaves_with_path(restored):
            values[item + jax.tree_util.keystr(name)] = np.asarray(leaf)
    return values


def assert_equal_checkpoints(run, other, step):
    one, two = (saved_values(each.checkpoints, step) for each in (run, other))
    assert one.keys() == two.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name], err_msg=name)


def assert_table_is_of_the_events(run):
    """Every value of metrics.csv is in the event files, and the other way round."""
    with open(run.metrics, newline="") as file:
        rows = {int(row.pop("step")): row for row in csv.DictReader(file)}
    found = events.read(run.tensorboard)
    pictures = found.pop("samples", {})
    assert pictures.keys() <= rows.keys()
    table = {}
    for step, row in rows.items():
        for name, value in row.items():
            if value:
                table.setdefault(name, {})[step] = np.float32(value)
    assert table == {name: dict(values) for name, values in found.items()}


class Killed(BaseException):
    """The end of a program that nobody asked; nothing in it may act on that."""


def killed_at(kills, seen, monkeypatch):
    """Kills the runs that are started from now on after these steps; notes the batches of all."""
    kills, plain = iter(kills), loop.batches

    def batches(source, size, seed, first, *others):
        last = next(kills, None)
        for number, batch in enumerate(plain(source, size, seed, first, *others), first + 1):
            if number - 1 == last:
                raise Killed
            seen.append((number, batch))
            yield batch

    monkeypatch.setattr(loop, "batches", batches)


def test_a_run_that_was_killed_is_in_the_end_the_same(tmp_path, monkeypatch):
    config = linear.config(training__preview_every=10, training__num_steps=25)
    expected, seen, kills = [], [], [3, 13, 23]
    killed_at([], expected, monkeypatch)
    whole = train(tmp_path / "whole", config)
    monkeypatch.undo()
    killed_at(kills, seen, monkeypatch)
    for _ in kills:
        with pytest.raises(Killed):
            train(tmp_path / "parts", config)
        # As if the last checkpoint had been the last thing that was done.
        run = Run(epath.Path(tmp_path) / "parts")
        done = max(checkpointer.complete_steps(run.checkpoints), default=0)
        reported = events.read(run.tensorboard).get("loss", ())
        assert {*range(5, done + 1, 5)} <= set(reported)
    parts = train(tmp_path / "parts", config)
    assert_equal_checkpoints(whole, parts, 25)
    assert [number for number, _ in seen] == [
        1,
        2,
        3,
        *range(1, 14),
        *range(11, 24),
        *range(21, 26),
    ]
    batches = dict(expected)
    for number, batch in seen:
        jax.tree.map(np.testing.assert_array_equal, batch, batches[number])
    # Every point and picture is there once.
    one, two = (events.read(run.tensorboard) for run in (whole, parts))
    assert list(one["loss"]) == [5, 10, 15, 20, 25]
    assert list(one["samples"]) == [10, 20]
    assert one.keys() == two.keys()
    measured = {"images_per_second", "waiting_for_data"}
    for tag in one.keys() - measured:
        assert one[tag] == two[tag], tag
    for tag in measured:
        assert one[tag].keys() == two[tag].keys()
    for run in (whole, parts):
        assert_table_is_of_the_events(run)
        assert sorted(path.name for path in run.previews.iterdir()) == ["10.png", "20.png"]
    with Picture.open(whole.previews / "20.png") as picture:
        assert picture.width > 3 * 48  # a column for each class
    assert not {"tensorflow", "torch"} & set(sys.modules)


def test_the_folder_holds_what_the_docs_say(finished):
    assert finished.config() == linear.config()
    assert checkpointer.complete_steps(finished.checkpoints) == [10, 20]
    assert checkpointer.complete_steps(finished.snapshots) == [5, 10, 15, 20]
    tags = events.read(finished.tensorboard)
    for name in ("loss", "mse", "vb", "loss_q0", "loss_q3", "grad_norm", "images_per_second"):
        assert list(tags[name]) == [5, 10, 15, 20]
    assert tags["non_finite_steps"] == dict.fromkeys((5, 10, 15, 20), 0)
    # Four steps of warm-up; steps 5, 10, ... of 16 of 96 images.
    assert tags["learning_rate"] == dict.fromkeys((5, 10, 15, 20), np.float32(1e-3))
    assert tags["images"] == {5: 80, 10: 160, 15: 240, 20: 320}
    assert tags["epochs"] == {step: np.float32(step * 16 / 96) for step in (5, 10, 15, 20)}
    assert all(0 <= share < 1 for share in tags["waiting_for_data"].values())

    def fingerprints(folder, step):
        return checkpointer.read_meta(folder, step)["fingerprints"]["ema"]

    assert fingerprints(finished.snapshots, 20) == fingerprints(finished.checkpoints, 20)
    assert fingerprints(finished.snapshots, 5) != fingerprints(finished.snapshots, 20)


def test_the_folder_takes_the_space_that_was_said(finished):
    config, mesh = linear.config(), mesh_lib.make_mesh()
    said = space(config, state_template(Task.of(config), mesh))
    for folder, each, count in (
        (finished.checkpoints, said.checkpoint, said.checkpoints),
        (finished.snapshots, said.snapshot, said.snapshots),
    ):
        taken = sum(files.walk(folder).values())
        # Compressed, and with some files beside the arrays.
        assert 0.85 * each * count < taken < (1.05 * each + 50_000) * count, folder


def test_a_run_of_another_config_is_refused_and_untouched(finished):
    before = finished.config_file.read_text()
    with pytest.raises(UserError, match=r"training.learning_rate \(0.001 in the run, now 0.1\)"):
        train(finished.folder, linear.config(training__learning_rate=0.1))
    assert finished.config_file.read_text() == before


def corrupt(folder):
    for path in pathlib.Path(folder).rglob("*"):
        if path.is_file() and path.stat().st_size > 10_000:
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.write_bytes(content)


def test_corrupt_checkpoints_are_passed_over_and_kept(copy, finished, capsys):
    corrupt(copy.checkpoints / "20")
    (copy.checkpoints / "30").mkdir()
    train(copy.folder, linear.config())
    out = capsys.readouterr().out
    assert "Checkpoint 20 is corrupt" in out
    assert "from step 10" in out
    # Averages of steps that are taken again: those of two courses of training must not mix.
    aside = {path.name for path in (copy.folder / "set_aside").iterdir()}
    assert {"checkpoints-20", "snapshots-15", "snapshots-20"} <= aside
    assert checkpointer.complete_steps(copy.snapshots) == [5, 10, 15, 20]
    assert_equal_checkpoints(finished, copy, 20)
    for step in (10, 20):
        corrupt(copy.checkpoints / str(step))
    with pytest.raises(UserError, match="None of the checkpoints"):
        train(copy.folder, linear.config())
    assert checkpointer.complete_steps(copy.checkpoints) == [10, 20]


def test_a_finished_run_is_left_as_it_is(copy):
    def there():
        paths = pathlib.Path(copy.folder).rglob("*")
        return sorted(path for path in paths if "tensorboard" not in path.parts)

    before = there()
    train(copy.folder, linear.config())
    assert there() == before


def test_a_full_disk_ends_a_run_that_can_be_continued(copy, finished, caplog):
    shutil.rmtree(copy.checkpoints / "20")
    caplog.set_level(logging.CRITICAL, "absl")
    with small_files(100_000), pytest.raises(UserError, match="cannot be written"):
        train(copy.folder, linear.config())
    assert checkpointer.complete_steps(copy.checkpoints) == [10]
    train(copy.folder, linear.config())
    assert_equal_checkpoints(finished, copy, 20)


def test_a_picture_that_cannot_be_written_does_not_cost_the_checkpoint(tmp_path):
    run = train(tmp_path, linear.config(training__num_steps=1))
    (run.previews / "10.png").mkdir()
    with pytest.raises(UserError, match="10.png"):
        train(tmp_path, linear.config(training__num_steps=10, training__preview_every=10))
    assert checkpointer.complete_steps(run.checkpoints) == [1, 10]


def test_parameters_that_are_not_finite_stop_the_run_before_they_are_kept(tmp_path, monkeypatch):
    assert all_finite({"a": jnp.ones(3), "b": [jnp.zeros(2)]})
    assert not all_finite({"a": jnp.ones(3), "b": [jnp.array([0, jnp.nan])]})
    answers = iter([True, True, False])  # at steps 5, 10 and 15
    monkeypatch.setattr(loop, "all_finite", lambda params: next(answers))
    with pytest.raises(UserError, match="parameters are not finite at step 15, .*/10:"):
        train(tmp_path, linear.config(training__preview_every=15, training__log_every=50))
    run = Run(epath.Path(tmp_path))
    assert checkpointer.complete_steps(run.checkpoints) == [10]
    assert checkpointer.complete_steps(run.snapshots) == [5, 10]
    assert list(run.previews.iterdir()) == []


@pytest.mark.parametrize(
    ("fields", "word"),
    [({"training__batch_size": 12}, "12"), ({"mesh__fsdp": 3}, "3")],
    ids=["batch_size", "fsdp"],
)
def test_what_the_devices_do_not_divide_is_refused(fields, word, tmp_path, monkeypatch):
    devices = jax.devices()[0].client.devices()  # all eight
    monkeypatch.setattr(loop, "make_mesh", lambda fsdp: mesh_lib.make_mesh(fsdp, devices))
    with pytest.raises(UserError, match=word):
        train(tmp_path, linear.config(**fields))
    assert not (tmp_path / "config.json").exists()


def test_a_classifier_trains_on_the_process_of_the_run_it_is_to_guide(tmp_path, capsys):
    other = Run(epath.Path(tmp_path) / "model")
    other.write_config(linear.config(diffusion=ADM(schedule="linear", num_timesteps=30)))
    config = linear.config(
        model=linear.LinearClassifier(label=Label(linear.CLASSES)),
        diffusion=ADM(from_run=str(other.folder)),
        training__num_steps=10,
        training__preview_every=10,
    )
    run = train(tmp_path / "classifier", config)
    assert run.config().diffusion == ADM(
        from_run=str(other.folder), schedule="linear", num_timesteps=30
    )
    assert "held out: top-1" in capsys.readouterr().out
    assert events.read(run.tensorboard)["held_out/top1_q0"].keys() == {10}
    # It can be continued when the other run is gone.
    shutil.rmtree(other.folder)
    train(run.folder, config)
    with pytest.raises(UserError, match="no config.json"):
        train(tmp_path / "another", config)


def test_learned_weights_power_averages_and_a_measured_deviation(tmp_path, monkeypatch):
    def config(data_std=0.0, steps=4):
        return linear.config(
            diffusion=EDM(data_std=data_std, uncertainty=True, condition_dropout=0.1),
            training__power_ema=(0.05, 0.1),
            training__num_steps=steps,
            training__log_every=2,
        )

    run = train(tmp_path / "whole", config())
    measured = run.config().diffusion.data_std
    images = linear.Stripes().open("train", ()).fetch(np.arange(96))["x"] / 127.5 - 1
    np.testing.assert_allclose(measured, images.std(), rtol=1e-6)
    values = saved_values(run.checkpoints, 4)
    assert values["params['head']"] != 0
    assert {"power_0.05", "power_0.1"} == {n.split("'")[1] for n in values if n.startswith("ema")}
    scalars = events.read(run.tensorboard)
    assert list(scalars["weighted"]) == list(scalars["loss"]) == [2, 4]
    train(tmp_path / "parts", config(steps=2))
    assert_equal_checkpoints(run, train(tmp_path / "parts", config()), 4)
    # A run that has begun keeps its own, whether it is continued with 0 or with the number.
    monkeypatch.setattr(workdir, "standard_deviation", None)
    for stated in (0.0, measured):
        train(run.folder, config(stated))
        assert run.config().diffusion.data_std == measured
    with pytest.raises(UserError, match="data_std .* in the run, now 0.5"):
        train(run.folder, config(0.5))
    new = Run(epath.Path(tmp_path) / "new")
    assert workdir.measure(config(0.25), new, None).diffusion.data_std == 0.25
    with pytest.raises(UserError, match="diffusion.data_std is 0"):
        workdir.measure(config(), new, from_arrays(np.zeros((2, 8, 8, 1), np.float32)))


def test_every_kind_of_condition_is_trained_on_and_previewed(tmp_path):
    """From a prepared dataset that has all of them."""
    config = tiny.config(
        model=linear.LinearConfig(conditions=(Label(10), Vector(16), Image(1))),
        diffusion=EDM(condition_dropout=0.2),
        sampling=Heun(steps=2),
        data__augment="flip",
        training__num_steps=2,
        training__preview_every=2,
    )
    run = train(tmp_path, config)
    assert run.config() == config
    with Picture.open(run.previews / "2.png") as picture:
        assert picture.height > 6 * 48
    others = saved_values(run.checkpoints, 2)
    assert all(np.isfinite(value).all() for value in others.values())
    moments = [v for name, v in others.items() if "others" in name and "'nu'" in name]
    assert all(moment.any() for moment in moments)
