import pytest
from etils import epath

from jaxdiff import files
from jaxdiff.checkpoints import checkpointer
from jaxdiff.checkpoints.run import Run, resolve
from jaxdiff.errors import UserError
from jaxdiff.training.restart import require_none_lost, set_history_aside
from tests import tiny
from tests.checkpoints import synthetic

CONFIG = tiny.config(training__num_steps=100)  # a checkpoint every 10 steps


@pytest.fixture
def run(tmp_path):
    """A run before its first step."""
    run = Run(epath.Path(tmp_path) / "run")
    run.write_config(CONFIG)
    return run


def whole(place, step):
    files.make_folder(place / str(step))


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(run):
    require_none_lost(run, None)
    whole(run.snapshots, 5)
    whole(run.snapshots, 10)
    files.write_text(run.previews / "5.png", "")
    whole(run.checkpoints, "10.orbax-checkpoint-tmp")
    whole(run.folder / "set_aside", "snapshots-5")
    require_none_lost(run, CONFIG)
    whole(run.checkpoints, 20)
    whole(run.snapshots, 25)
    require_none_lost(run, CONFIG)


@pytest.mark.parametrize("trace", ["snapshots/15", "previews/20.png", "set_aside/checkpoints-10"])
def test_a_run_whose_checkpoints_are_gone_is_not_begun_again(run, trace):
    files.make_folder(run.folder / trace)
    with pytest.raises(UserError, match="--restart"):
        require_none_lost(run, CONFIG)
    whole(run.checkpoints, 20)
    require_none_lost(run, CONFIG)
    files.remove(run.config_file)
    with pytest.raises(UserError, match="config.json"):
        require_none_lost(run, None)


def test_restart_moves_what_there_was_aside_and_deletes_nothing(tmp_path):
    run = synthetic.make_run(tmp_path / "run", every=200)
    place, config = run.folder, run.config()
    files.write_text(place / "data.json", "{}")
    files.write_text(place / "mine.txt", "")
    for number, steps in ((1, [200, 400]), (2, [7])):
        set_history_aside(run)
        assert files.names(place)[-3:] == ["config.json", "data.json", "mine.txt"]
        assert checkpointer.complete_steps(run.snapshots) == []
        aside = place / f"before-restart-{number}"
        assert checkpointer.complete_steps(aside / "snapshots") == steps
        assert Run(aside).config() == config
        assert files.names(aside) == ["config.json", "data.json", "snapshots"]
        set_history_aside(run)  # of what has not begun: nothing is moved
        whole(run.snapshots, 7)
    assert resolve(str(place / "before-restart-1")).step == 400
