import gzip
import json

import jax
import pytest
from etils import epath

from jaxdiff.checkpoints.run import Run
from jaxdiff.errors import UserError
from jaxdiff.training import loop
from jaxdiff.training.profile import Profile
from tests import programs
from tests.training import events, linear

pytestmark = pytest.mark.usefixtures("alone")


@pytest.mark.slow  # JAX's profiler has ended a process of many tests by a segmentation fault
def test_a_trace_holds_the_steps_that_were_asked_for(tmp_path):
    (tmp_path / "config.py").write_text("from tests.training.linear import config as get_config")
    run = Run(epath.Path(tmp_path) / "run")
    flags = (f"--config={tmp_path / 'config.py'}", f"--workdir={run.folder}", "--profile=4,3")
    status, out, err = programs.run("train.py", *flags, "--config.training.num_steps=10")
    assert status == 0, err
    (folder,) = (run.tensorboard / "plugins" / "profile").iterdir()
    assert f"Wrote a trace of steps 5 to 7: {folder}" in out
    assert {path.name.partition(".")[2] for path in folder.iterdir()} >= {"xplane.pb"}
    (trace,) = folder.glob("*.trace.json.gz")
    found = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    steps = [e["args"]["step_num"] for e in found if e.get("name") == "train"]
    assert steps == ["5", "6", "7"]
    (run.tensorboard / "plugins").rmtree()
    assert list(events.read(run.tensorboard)["loss"]) == [5, 10]


def test_the_profiler_runs_for_the_steps_that_were_asked_for(tmp_path, monkeypatch, capfd):
    taken, calls, plain = [], [], loop.Metrics.push

    def start(folder, profiler_options):
        calls.append(("start", len(taken)))
        (folder / "plugins" / "profile" / "now").mkdir(parents=True)
        (folder / "plugins" / "profile" / "now" / "x.xplane.pb").write_bytes(b"trace")

    def push(metrics, number, sums):
        taken.append(number)
        plain(metrics, number, sums)

    monkeypatch.setattr(jax.profiler, "start_trace", start)
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append(("stop", len(taken))))
    monkeypatch.setattr(loop.Metrics, "push", push)
    loop.train(
        linear.config(training__num_steps=9, training__log_every=1), tmp_path, profile=(4, 3)
    )
    # A step is counted after the trace has looked at it.
    assert calls == [("start", 3), ("stop", 6)]
    place = tmp_path / "tensorboard" / "plugins" / "profile" / "now"
    assert (place / "x.xplane.pb").read_bytes() == b"trace"
    assert f"Wrote a trace of steps 5 to 7: {place}" in capfd.readouterr().out


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
