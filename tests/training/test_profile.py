import gzip
import json

import pytest
from etils import epath

from jaxdiff.checkpoints.run import Run
from jaxdiff.errors import UserError
from jaxdiff.training import loop
from jaxdiff.training.profile import Profile
from tests import programs
from tests.training import events, linear

pytestmark = pytest.mark.usefixtures("alone")


def test_a_trace_holds_the_steps_that_were_asked_for(tmp_path, capfd):
    loop.train(linear.config(training__num_steps=10), tmp_path, profile=(4, 3))
    run = Run(epath.Path(tmp_path))
    (folder,) = (run.tensorboard / "plugins" / "profile").iterdir()
    assert f"Wrote a trace of steps 5 to 7: {folder}" in capfd.readouterr().out
    assert {path.name.partition(".")[2] for path in folder.iterdir()} >= {"xplane.pb"}
    (trace,) = folder.glob("*.trace.json.gz")
    found = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    steps = [e["args"]["step_num"] for e in found if e.get("name") == "train"]
    assert steps == ["5", "6", "7"]
    (run.tensorboard / "plugins").rmtree()
    assert list(events.read(run.tensorboard)["loss"]) == [5, 10]


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ((5,), "give START,STEPS"),
        ((-1, 3), "give START,STEPS"),
        ((5, 0), "give START,STEPS"),
        ((1, 2, 3), "give START,STEPS"),
        ((18, 3), "steps 19 to 21, and training ends at 20"),
    ],
)
def test_other_numbers_and_steps_are_refused(asked, why):
    with pytest.raises(UserError, match=why):
        Profile(asked, Run(epath.Path("runs/a")), 10, 20)
    for fits in ((), (10, 10), (19, 1)):
        Profile(fits, Run(epath.Path("runs/a")), 10, 20)


def test_a_run_that_continues_behind_the_traced_steps_is_not_traced(capsys):
    profile = Profile((4, 3), Run(epath.Path("runs/a")), 5, 20)
    assert "No trace: --profile is 4,3" in capsys.readouterr().out
    for number in range(5, 21):
        profile.at(number, ())
    profile.close()


def test_what_is_no_number_is_refused(capsys):
    from jaxdiff.training import command

    line = ("--config=configs/digits.py", "--workdir=x", "--profile=5,x")
    programs.refused(command.main, capsys, [(line, "profile")])
