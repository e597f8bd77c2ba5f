import dataclasses
import logging
import pathlib
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from jaxdiff import config as config_lib
from jaxdiff.checkpoints import checkpointer
from jaxdiff.checkpoints.run import Run
from jaxdiff.data import pipeline
from jaxdiff.errors import UserError
from jaxdiff.parallel import mesh as mesh_lib
from jaxdiff.training import loop
from tests import tiny
from tests.disk import small_files
from tests.training import events


@pytest.fixture(autouse=True)
def on_one_device(monkeypatch):
    """Most of what the loop does is seen on one device, in an eighth of the time."""
    everything = mesh_lib.make_mesh
    monkeypatch.setattr(loop, "make_mesh", lambda fsdp: everything(fsdp, jax.devices()[:1]))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of 20 steps in one go."""
    folder = tmp_path_factory.mktemp("run") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        everything = mesh_lib.make_mesh
        patch.setattr(loop, "make_mesh", lambda fsdp: everything(fsdp, jax.devices()[:1]))
        loop.train(tiny.config(), folder)
    return Run(folder)


def saved_values(folder, step):
    """Every array of a checkpoint as it lies on disk, by name."""
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


def record_batches(monkeypatch):
    """Notes the number of the batch that each start of the loop begins with, and all batches."""
    seen = []
    plain = pipeline.batches

    def noting(source, size, seed, first, workers):
        iterator = plain(source, size, seed, first, workers)

        class Noting:
            def __next__(self):
                seen.append(next(iterator))
                return seen[-1]

            def close(self):
                # What the run would have seen next.
                seen.append(next(iterator))
                iterator.close()

        return Noting()

    monkeypatch.setattr(loop, "batches", noting)
    return seen


def test_twenty_steps_and_ten_and_ten_are_bit_identical(finished, tmp_path, monkeypatch):
    whole, parts = record_batches(monkeypatch), None
    loop.train(tiny.config(), tmp_path / "again")
    parts = record_batches(monkeypatch)
    loop.train(tiny.config(training__num_steps=10), tmp_path / "parts")
    loop.train(tiny.config(), tmp_path / "parts")
    one = saved_values(finished.checkpoints, 20)
    two = saved_values(tmp_path / "parts" / "checkpoints", 20)
    assert len(one) > 100
    assert one.keys() == two.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name], err_msg=name)
    # 20 + the next, against 10 + the next, and again from there: 10 + the next.
    assert (len(whole), len(parts)) == (21, 22)
    for expected, got in zip(whole, [*parts[:10], *parts[11:]], strict=True):
        np.testing.assert_array_equal(expected["image"], got["image"])
        np.testing.assert_array_equal(expected["label"], got["label"])
    np.testing.assert_array_equal(parts[10]["image"], whole[10]["image"])


def test_the_folder_holds_what_the_docs_say(finished):
    assert finished.config() == tiny.config()
    assert checkpointer.complete_steps(finished.checkpoints) == [10, 20]
    assert checkpointer.complete_steps(finished.snapshots) == [5, 10, 15, 20]
    assert sorted(p.name for p in (finished.checkpoints / "20").iterdir() if p.is_dir()) == [
        "ema",
        "meta",
        "opt_state",
        "params",
        "step",
    ]
    meta = checkpointer.read_meta(finished.checkpoints, 20)
    assert (meta["step"], meta["batch"], meta["ema"]) == (20, 20, ["0.995"])


def test_a_snapshot_is_the_checkpoint_s_average(finished):
    def arrays(folder, step):
        meta = checkpointer.read_meta(folder, step)
        return meta["fingerprints"]["ema"]

    assert arrays(finished.snapshots, 20) == arrays(finished.checkpoints, 20)
    assert arrays(finished.snapshots, 5) != arrays(finished.snapshots, 20)


def test_scalars_and_pictures_are_written_without_tensorflow(tmp_path):
    import sys

    loop.train(tiny.config(training__num_steps=10, training__preview_every=10), tmp_path)
    with Image.open(tmp_path / "previews" / "10.png") as picture:
        assert picture.size == (10 * (48 + 4), 6 * (48 + 4))
    tags = events.read(tmp_path / "tensorboard")
    for name in ("loss", "mse", "vb", "loss_q0", "loss_q3", "grad_norm", "images_per_second"):
        assert list(tags[name]) == [5, 10]
    assert list(tags["samples"]) == [10]
    assert "non_finite_steps" not in tags
    assert not {"tensorflow", "torch"} & set(sys.modules)


class Killed(BaseException):
    """The end of a program that nobody asked; nothing in it may act on that."""


@pytest.mark.parametrize("first_kill", [3, 13])
def test_a_killed_run_has_every_point_and_picture_once(first_kill, tmp_path, monkeypatch):
    fields = {"training__preview_every": 10, "training__num_steps": 25}
    loop.train(tiny.config(**fields), tmp_path / "whole")
    kills = iter([first_kill, 23])
    plain = loop.batches

    def batches(source, size, seed, first, workers):
        last = next(kills, 1000)
        for number, batch in enumerate(plain(source, size, seed, first, workers), first + 1):
            if number > last:
                raise Killed
            yield batch

    monkeypatch.setattr(loop, "batches", batches)
    for _ in range(2):
        with pytest.raises(Killed):
            loop.train(tiny.config(**fields), tmp_path / "parts")
        # As if the last checkpoint had been the last thing that was done.
        assert {*range(5, number_of(tmp_path / "parts") + 1, 5)} <= set(
            events.read(tmp_path / "parts" / "tensorboard").get("loss", ())
        )
    loop.train(tiny.config(**fields), tmp_path / "parts")
    whole, parts = (events.read(tmp_path / name / "tensorboard") for name in ("whole", "parts"))
    assert list(whole["loss"]) == [5, 10, 15, 20, 25]
    assert list(whole["samples"]) == [10, 20]
    assert whole.keys() == parts.keys()
    for tag in whole.keys() - {"images_per_second"}:
        assert whole[tag] == parts[tag], tag
    assert whole["images_per_second"].keys() == parts["images_per_second"].keys()
    pictures = [
        sorted(p.name for p in (tmp_path / n / "previews").iterdir()) for n in ("whole", "parts")
    ]
    assert pictures == [["10.png", "20.png"]] * 2


def number_of(folder):
    """The last step that a run has a checkpoint of; 0 where there is none."""
    return max(checkpointer.complete_steps(folder / "checkpoints"), default=0)


def test_a_run_of_another_config_is_refused_and_untouched(finished):
    before = finished.config_file.read_text()
    with pytest.raises(UserError, match=r"training.learning_rate \(0.001 in the run, now 0.1\)"):
        loop.train(tiny.config(training__learning_rate=0.1), finished.folder)
    assert finished.config_file.read_text() == before


@pytest.fixture
def copy(finished, tmp_path):
    shutil.copytree(finished.folder, tmp_path / "copy")
    return Run(tmp_path / "copy")


def damage(folder):
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_size > 10_000:
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.write_bytes(content)


def test_a_damaged_checkpoint_is_passed_over_and_kept(copy, finished, capsys):
    damage(copy.checkpoints / "20")
    (copy.checkpoints / "30").mkdir()
    loop.train(tiny.config(), copy.folder)
    out = capsys.readouterr().out
    assert "Checkpoint 20 is damaged" in out
    assert "from step 10" in out
    assert sorted(p.name for p in (copy.folder / "damaged").iterdir()) == [
        "checkpoints-20",
        "checkpoints-30",
        # Averages of steps that are taken anew: those of two courses must not mix.
        "snapshots-15",
        "snapshots-20",
    ]
    assert checkpointer.complete_steps(copy.snapshots) == [5, 10, 15, 20]
    again, before = (saved_values(run.checkpoints, 20) for run in (copy, finished))
    for name, value in before.items():
        np.testing.assert_array_equal(value, again[name], err_msg=name)


def test_a_run_whose_checkpoints_are_all_damaged_is_not_started_anew(copy):
    for step in (10, 20):
        damage(copy.checkpoints / str(step))
    with pytest.raises(UserError, match="None of the checkpoints"):
        loop.train(tiny.config(), copy.folder)
    assert checkpointer.complete_steps(copy.checkpoints) == [10, 20]


def test_a_finished_run_is_left_as_it_is(copy):
    before = sorted(path for path in copy.folder.rglob("*") if "tensorboard" not in path.parts)
    loop.train(tiny.config(), copy.folder)
    after = sorted(path for path in copy.folder.rglob("*") if "tensorboard" not in path.parts)
    assert after == before


def test_parameters_that_are_not_finite_stop_the_run_before_they_are_kept(tmp_path, monkeypatch):
    plain = loop.make_step

    def poisoned(*args):
        step = plain(*args)

        def wrapped(state, sums, batch):
            new, sums = step(state, sums, batch)
            bad = new.step == 13
            params = jax.tree.map(lambda p: jax.numpy.where(bad, jax.numpy.nan, p), new.params)
            return dataclasses.replace(new, params=params), sums

        return wrapped

    monkeypatch.setattr(loop, "make_step", poisoned)
    words = "parameters are not finite at step 14, so .*last good checkpoint is .*/10:"
    with pytest.raises(UserError, match=words):
        loop.train(tiny.config(training__preview_every=15, training__log_every=50), tmp_path)
    run = Run(pathlib.Path(tmp_path))
    assert checkpointer.complete_steps(run.checkpoints) == [10]
    assert checkpointer.complete_steps(run.snapshots) == [5, 10]
    assert list(run.previews.iterdir()) == []


def test_an_unwritable_work_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        loop.train(tiny.config(), tmp_path / "file" / "run")


def test_a_full_disk_ends_a_run_that_then_goes_on(copy, finished, caplog):
    shutil.rmtree(copy.checkpoints / "20")
    caplog.set_level(logging.CRITICAL, "absl")
    with (
        small_files(100_000),
        pytest.raises(UserError, match="cannot be written .* continues from"),
    ):
        loop.train(tiny.config(), copy.folder)
    assert checkpointer.complete_steps(copy.checkpoints) == [10]
    loop.train(tiny.config(), copy.folder)
    one, two = (saved_values(run.checkpoints, 20) for run in (finished, copy))
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name], err_msg=name)


def test_a_picture_that_cannot_be_written_ends_a_run_in_a_sentence(tmp_path):
    (tmp_path / "previews" / "10.png").mkdir(parents=True)
    config = tiny.config(training__num_steps=10, training__preview_every=10)
    with pytest.raises(UserError, match=r"previews cannot be written \(Is a directory\)"):
        loop.train(config, tmp_path)
    assert checkpointer.complete_steps(tmp_path / "checkpoints") == [10]


def test_a_batch_that_the_devices_do_not_divide_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "make_mesh", mesh_lib.make_mesh)
    with pytest.raises(UserError, match="batch_size 12 is not divided by 8 devices"):
        loop.train(tiny.config(training__batch_size=12), tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_a_classifier_trains_on_the_process_of_the_run_it_is_to_guide(tmp_path, capsys):
    other = Run(tmp_path / "model")
    other.folder.mkdir()
    process = {"diffusion__schedule": "linear", "diffusion__num_timesteps": 30}
    other.config_file.write_text(config_lib.to_json(tiny.config(**process)))
    config = tiny.config(
        model__kind="classifier",
        diffusion__from_run=str(other.folder),
        diffusion__label_dropout=0.0,
        training__num_steps=10,
        training__preview_every=10,
    )
    loop.train(config, tmp_path / "classifier")
    run = Run(tmp_path / "classifier")
    assert run.config().diffusion.schedule == "linear"
    assert run.config().diffusion.num_timesteps == 30
    assert "held out: top-1" in capsys.readouterr().out
    # It can be continued when the other run is gone.
    shutil.rmtree(other.folder)
    with config.unlocked():
        config.training.num_steps = 12
    loop.train(config, run.folder)
    assert checkpointer.complete_steps(run.checkpoints)[-1] == 12
