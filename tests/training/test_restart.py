import json
import shutil

import pytest

from jaxdiff import config as config_lib
from jaxdiff.checkpoints import checkpointer
from jaxdiff.checkpoints.run import LOCK, Run, resolve
from jaxdiff.errors import UserError
from jaxdiff.training import workdir
from jaxdiff.training.metrics_logging import Writer
from tests import history, tiny

DATA = {"examples": 3}  # the record of the data


@pytest.fixture
def run(tmp_path):
    """Checkpoints every 10 steps of 100: a run as it is before its first step."""
    run = Run(tmp_path / "run")
    workdir.claim(run.folder, config(), DATA)
    run.checkpoints.mkdir()
    return run


def config(**overrides):
    return tiny.config(**{"training__num_steps": 100, **overrides})


def claim(run, **overrides):
    return workdir.claim(run.folder, config(**overrides), DATA)


def report(run, *steps):
    writer = Writer(run.tensorboard, 0)
    for step in steps:
        writer.write_scalars(step, {"loss": 1.0})
    writer.close()


def whole(place, step):
    (place / str(step) / "meta").mkdir(parents=True)
    (place / str(step) / "meta" / "metadata").touch()


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(run):
    claim(run)
    report(run, 5, 10)
    whole(run.snapshots, 5)
    (run.previews / "5.png").touch()
    claim(run)
    (run.folder / "damaged" / "snapshots-5").mkdir(parents=True)
    claim(run)


def test_a_run_that_was_killed_while_its_first_checkpoint_was_written_begins_again(run):
    report(run, 5, 10, 15)
    (run.checkpoints / "10.orbax-checkpoint-tmp").mkdir()
    claim(run)


@pytest.mark.parametrize(
    "lose",
    [
        lambda run: report(run, 5, 10, 15),
        lambda run: whole(run.snapshots, 15),
        lambda run: (run.previews / "20.png").touch(),
        # A last checkpoint is written whatever the step.
        lambda run: (whole(run.snapshots, 5), claim(run, training__num_steps=5)),
        lambda run: (run.checkpoints.rmdir(), report(run, 5)),
        lambda run: (run.checkpoints.rmdir(), whole(run.snapshots, 5)),
        lambda run: (run.checkpoints / "10").mkdir(),
        lambda run: (run.folder / "damaged" / "checkpoints-10").mkdir(parents=True),
        lambda run: (run.folder / "damaged" / "checkpoints-10-1").mkdir(parents=True),
    ],
)
def test_a_run_whose_checkpoints_are_gone_is_not_begun_again(run, lose):
    lose(run)
    before = sorted(run.folder.rglob("*"))
    with pytest.raises(UserError, match="--restart"):
        # Another period changes nothing of what the run has done.
        claim(run, training__checkpoint_every=1000, training__num_steps=2000)
    assert sorted(run.folder.rglob("*")) == before
    whole(run.checkpoints, 20)
    claim(run)


def test_a_folder_with_steps_but_no_config_is_not_taken_for_a_new_run(run):
    whole(run.checkpoints, 10)
    claim(run)
    run.config_file.unlink()
    with pytest.raises(UserError, match="config.json"):
        claim(run)


def test_a_cut_event_file_is_read_as_far_as_it_goes(run):
    report(run, 5, 10, 15, 20)
    (path,) = run.tensorboard.iterdir()
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - 10])
    with pytest.raises(UserError, match="step 15"):
        claim(run)
    path.write_bytes(b"\xff" * 1000)
    claim(run)


def test_restart_moves_what_there_was_aside_and_deletes_nothing(tmp_path):
    place = history.make(tmp_path / "run")
    run, settings = Run(tmp_path / "run"), history.config()
    (run.folder / "data.json").write_text(json.dumps({"examples": 3}))
    report(run, 5, 10)
    with pytest.raises(UserError, match="--restart"):
        workdir.claim(place, settings, DATA)
    for number, held in enumerate(([5, 10], [7]), 1):
        with workdir.held(place):
            workdir.claim(place, settings, DATA, restart=True)
            assert sorted(path.name for path in run.folder.iterdir() if path.is_file()) == [
                LOCK,
                "config.json",
                "data.json",
            ]
        assert checkpointer.complete_steps(run.snapshots) == []
        aside = run.folder / f"before-restart-{number}"
        assert checkpointer.complete_steps(aside / "snapshots") == held
        assert Run(aside).config() == settings
        assert (aside / "data.json").exists()
        workdir.claim(place, settings, DATA)  # begins, and needs no flag again
        whole(run.snapshots, 7)
    assert resolve(str(run.folder / "before-restart-1")).step == 10
    assert list((run.folder / "before-restart-1" / "tensorboard").iterdir())


def test_restart_of_what_has_not_begun_moves_nothing(run):
    workdir.claim(run.folder, config(), DATA, restart=True)
    shutil.rmtree(run.folder)
    workdir.claim(run.folder, config(), DATA, restart=True)
    assert not list(run.folder.glob("before-restart*"))
    assert config_lib.from_json(run.config_file) == config()
