"""Training in several processes of several devices, against one process; docs/run_folder.md."""

import json
import os
import pathlib
import signal
import time

import jax
import numpy as np
import pytest
from etils import epath

from jaxdiff import files
from jaxdiff.checkpoints import checkpointer
from jaxdiff.checkpoints.run import Run, resolve
from jaxdiff.training import loop
from tests import runs
from tests.programs import ended, start, start_together, wait_for
from tests.training import trainings
from tests.training.test_loop import saved_values

pytestmark = pytest.mark.timeout(3000)  # where other programs take the cores
# After two steps. The learning rate of `linear.config` is 1e-3 after its warm-up: other data, or
# noise of another key, would move parameters apart by a share of that.
TOLERANCE = 1e-4
OFTEN = {"training.checkpoint_every": 2, "training.snapshot_every": 2, "training.log_every": 2}


def case(folder, name, steps, fields=(), /, **others):
    """A training of linear.config up to a step."""
    values = {**OFTEN, "training.num_steps": steps, **dict(fields)}
    return {"workdir": str(folder / name), "config": values, **others}


def begin(folder, cases, count=2, devices=2):
    """Processes that train these cases."""
    plan = folder / "plan.json"
    plan.write_text(json.dumps(cases))
    arguments = ("-m", "tests.training.trainings", plan)
    if count == 1:
        return [start(*arguments, devices=devices)]
    return start_together(*arguments, count=count, devices=devices)


def together(folder, cases, count=2, devices=2):
    """[(status, problem of each case, stderr)] of processes that train these cases."""
    found = []
    for status, out, err in ended(begin(folder, cases, count, devices), 900):
        lines = [line[5:] for line in out.splitlines() if line.startswith("CASE ")]
        found.append((status, lines, err))
    return found


def alone(case, devices, monkeypatch):
    """Trains a case in this process."""
    some = jax.devices()[:devices]
    monkeypatch.setattr(jax, "devices", lambda *_: some)
    loop.train(trainings.config(case), case["workdir"])
    monkeypatch.undo()


def assert_close(one, two, step, tolerance=TOLERANCE):
    """Compares two checkpoints; returns the largest difference."""
    one, two = (saved_values(epath.Path(each) / "checkpoints", step) for each in (one, two))
    assert one.keys() == two.keys()
    largest = 0.0
    for name, value in one.items():
        np.testing.assert_allclose(two[name], value, rtol=0, atol=tolerance, err_msg=name)
        largest = max(largest, float(np.abs(np.float64(two[name]) - value).max()))
    return largest


def test_two_processes_train_what_one_does_and_another_number_continues(tmp_path, monkeypatch):
    several = case(tmp_path, "several", 2, {"mesh.fsdp": 4}, trap="1:writes")
    classifier = {"model": "classifier", "diffusion.condition_dropout": 0.0}
    classifier |= {"training.preview_every": 2}
    failing = case(tmp_path, "failing", 4, classifier, trap="1:held-out")
    for status, problems, err in together(tmp_path, [several, failing]):
        assert status == 0, err
        assert problems[0] == ""
        assert "test.array_record" in problems[1] or "says what is wrong" in problems[1]
    # What fails costs no steps.
    assert checkpointer.complete_steps(tmp_path / "failing" / "checkpoints") == [2]
    single = case(tmp_path, "single", 2, {"mesh.fsdp": 2})
    alone(single, 4, monkeypatch)
    for name in ("several", "single"):
        assert checkpointer.complete_steps(tmp_path / name / "snapshots") == [2]
    assert_close(tmp_path / "single", tmp_path / "several", 2)
    for name in ("several", "single"):
        alone(case(tmp_path, name, 4), 4, monkeypatch)
    assert_close(tmp_path / "single", tmp_path / "several", 4)


# Slow: every pair of processes takes a minute of CPU time.


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(4, 1, 2, 4, 2), (1, 2, 4, 2, 4), (2, 4, 1, 1, 1)])
def test_a_run_continues_in_other_numbers_of_processes(tmp_path, monkeypatch, sizes):
    """Two steps each in 4, 2, 1, 2 and 4 processes of 2 devices, with other fsdp each time."""
    for turn, (count, size) in enumerate(zip((4, 2, 1, 2, 4), sizes, strict=True), 1):
        several = case(tmp_path, "several", 2 * turn, {"mesh.fsdp": size})
        if count == 1:
            alone(several, 4, monkeypatch)
        else:
            for status, problems, err in together(tmp_path, [several], count):
                assert (status, problems) == (0, [""]), err
    alone(case(tmp_path, "one", 10), 8, monkeypatch)
    assert checkpointer.complete_steps(tmp_path / "several" / "snapshots") == [2, 4, 6, 8, 10]
    for step in (6, 8, 10):
        largest = assert_close(tmp_path / "one", tmp_path / "several", step, 5 * TOLERANCE)
        print(f"fsdp {sizes}, step {step}: {largest:.2g}")


@pytest.mark.slow
def test_the_toy_after_two_steps(tmp_path, monkeypatch):
    """One device, one process of 4, and two processes of 2, whose devices take turns in one."""
    names = {"toy1": 1, "toy2": 2}
    cases = [case(tmp_path, n, 2, {"mesh.fsdp": size}, name="toy") for n, size in names.items()]
    cases += [case(tmp_path, "again", 2, {"mesh.fsdp": 2}, name="toy")]
    cases += [case(tmp_path, "mixed", 2, {"mesh.fsdp": 2}, name="toy", trap="all:order")]
    for status, problems, err in together(tmp_path, cases):
        assert (status, problems) == (0, [""] * 4), err
    assert_close(tmp_path / "toy2", tmp_path / "again", 2, 0)  # bit for bit
    for devices in (1, 4):
        single = case(tmp_path, f"single{devices}", 2, name="toy")
        alone(single, devices, monkeypatch)
        for name in (*names, "mixed"):
            largest = assert_close(single["workdir"], tmp_path / name, 2)
            print(f"{name} and {devices} devices: {largest:.2g}")


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_300_steps_dispatched_ahead_end(tmp_path, count):
    """Three steps ahead, with collectives of every leaf in each."""
    fields = {"mesh.fsdp": 2, "training.log_every": 100, "training.checkpoint_every": 300}
    fields |= {"training.snapshot_every": 300}
    for status, problems, err in together(tmp_path, [case(tmp_path, "x", 300, fields)], count):
        assert (status, problems) == (0, [""]), err


@pytest.mark.slow
def test_what_goes_wrong_in_one_process_ends_all(tmp_path):
    """A checkpoint that one cannot read, full disks and a lone failure."""
    begun = [case(tmp_path, "torn", 4), case(tmp_path, "data", 2)]
    preview = {"training.preview_every": 2}
    begun += [case(tmp_path, "preview", 4, preview, trap="0:preview")]
    begun += [case(tmp_path, "torn", 6, trap="1:checkpoint")]
    begun += [case(tmp_path, "preview", 6, trap="1:late")]
    for status, problems, err in together(tmp_path, begun):
        assert status == 0, err
        assert problems[:2] + problems[3:] == [""] * 4
        assert "cannot be written" in problems[2]
    assert checkpointer.complete_steps(tmp_path / "preview" / "checkpoints") == [2, 4, 6]
    assert not (tmp_path / "preview" / "set_aside").exists()
    # Passed over, and taken again.
    assert "checkpoints-4" in {each.name for each in (tmp_path / "torn" / "set_aside").iterdir()}
    assert checkpointer.complete_steps(tmp_path / "torn" / "checkpoints") == [2, 4, 6]

    for trap, words in {
        "1:data": "train.array_record",
        "1:evaluation": "memory",
        "0:tensorboard": "No space left",
    }.items():
        fields = {"training.preview_every": 8, "training.log_every": 1}
        lone = case(tmp_path, "data", 20, fields, trap=trap, ends=True)
        begun = time.monotonic()
        for status, _, err in together(tmp_path, [lone]):
            assert status == 1, err
            assert words in err, (trap, err)
        print(f"{trap}: {time.monotonic() - begun:.0f} s")
        steps = checkpointer.complete_steps(tmp_path / "data" / "checkpoints")
        assert steps[-1] % 2 == 0


@pytest.mark.slow
def test_a_long_evaluation_is_left_within_seconds_by_all(tmp_path):
    features = runs.make_run(tmp_path / "classifier", runs.classifier("adaptive"))
    fields = {"training.evaluate_every": 2, "training.checkpoint_every": 100}
    long = case(tmp_path, "run", 100, fields, name="evaluation", features=str(features))
    programs = begin(tmp_path, [long])
    snapshots = epath.Path(tmp_path / "run" / "snapshots")
    wait_for(lambda: checkpointer.complete_steps(snapshots) == [2], 600)
    time.sleep(10)  # in which the programs of the evaluation are compiled
    sent = time.monotonic()
    programs[1].terminate()
    ends = ended(programs, 600)
    print(f"left and saved after {time.monotonic() - sent:.1f} s")
    assert [status for status, _, _ in ends] == [143, 143], ends
    assert checkpointer.complete_steps(epath.Path(tmp_path / "run" / "checkpoints")) == [3]
    assert not (tmp_path / "run" / "evaluation.csv").exists()


def children(pid):
    """Processes that a process has started, and those that these have."""
    threads = pathlib.Path(f"/proc/{pid}/task").glob("*/children")
    text = " ".join(each.read_text() for each in threads)
    return [each for child in map(int, text.split()) for each in (child, *children(child))]


def workers_of(pid):
    """Those of them that read data."""
    commands = {n: pathlib.Path(f"/proc/{n}/cmdline").read_text() for n in children(pid)}
    return [child for child, command in commands.items() if "spawn_main" in command]


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_a_signal_to_all_processes_of_a_job_saves(tmp_path, count):
    """Slurm and Kubernetes send SIGTERM to the workers that read data as well."""
    fields = {"data.workers": 1, "training.log_every": 1}
    long = case(tmp_path, "run", 100_000, {**fields}, ends=True)
    programs = begin(tmp_path, [long], count=count)
    checkpoints = epath.Path(tmp_path / "run" / "checkpoints")
    wait_for(lambda: checkpointer.complete_steps(checkpoints), 600)
    for program in programs:
        workers = workers_of(program.pid)
        assert workers
        for pid in (*workers, program.pid):
            os.kill(pid, signal.SIGTERM)
    for status, _, err in ended(programs, 600):
        assert status == 143, err
        assert "Traceback" not in err
    assert checkpointer.complete_steps(checkpoints)


@pytest.mark.slow
def test_a_worker_that_is_killed_ends_all_and_none_is_left(tmp_path):
    long = case(tmp_path, "run", 100_000, {"data.workers": 1}, ends=True)
    programs = begin(tmp_path, [long])
    checkpoints = epath.Path(tmp_path / "run" / "checkpoints")
    wait_for(lambda: checkpointer.complete_steps(checkpoints), 600)
    workers = [pid for program in programs for pid in workers_of(program.pid)]
    begun = time.monotonic()
    os.kill(workers[1], signal.SIGKILL)
    for status, _, err in ended(programs, 600):
        assert status == 1, err
        assert "data.workers" in err
    print(f"ended after {time.monotonic() - begun:.0f} s")
    wait_for(lambda: not any(pathlib.Path(f"/proc/{pid}").exists() for pid in workers), 30)
    # The program itself is killed.
    (program,) = begin(tmp_path, [long], count=1)
    before = checkpointer.complete_steps(checkpoints)[-1]
    wait_for(lambda: checkpointer.complete_steps(checkpoints)[-1] > before, 600)
    workers = workers_of(program.pid)
    program.kill()
    program.communicate()
    assert workers
    wait_for(lambda: not any(pathlib.Path(f"/proc/{pid}").exists() for pid in workers), 30)


@pytest.mark.slow
def test_the_first_process_alone_writes_what_all_share(tmp_path):
    """Previews, kept features, the row of an evaluation; the other one may write arrays alone."""
    features = runs.make_run(tmp_path / "classifier", runs.classifier("adaptive"))
    fields = {
        "training.evaluate_every": 2,
        "training.preview_every": 2,
        "evaluation.num_samples": 30,
    }
    given = {"name": "evaluation", "features": str(features), "trap": "1:writes"}
    for status, problems, err in together(tmp_path, [case(tmp_path, "run", 2, fields, **given)]):
        assert (status, problems) == (0, [""]), err
    there = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"config.json", "data.json", "evaluation.csv", "features", "previews"} <= there


@pytest.mark.slow
def test_two_processes_in_a_bucket_are_killed_while_they_write_and_continue(tmp_path, bucket):
    run = Run(bucket / "many")
    programs = begin(tmp_path, [case(bucket, "many", 100_000)])
    wait_for(lambda: checkpointer.complete_steps(run.checkpoints), 600)
    (second,) = begin(tmp_path, [case(bucket, "many", 100_000, ends=True)], count=1)
    ((status, _, err),) = ended([second])
    assert status == 1
    assert "is in use by process" in err

    def torn():
        there = {int(name) for name in files.names(run.snapshots)}
        return sorted(there - {*checkpointer.complete_steps(run.snapshots)})

    wait_for(torn, 120)
    for program in programs:
        program.kill()
    ended(programs)
    left, whole = torn(), checkpointer.complete_steps(run.checkpoints)
    print(f"torn snapshots {left}, whole checkpoints {whole}")
    assert not {*left} & run.places().keys()
    assert resolve(str(run.folder)).step == max(run.places())
    last = max(run.places()) + 2
    for status, problems, err in together(tmp_path, [case(bucket, "many", last)]):
        assert (status, problems) == (0, [""]), err
    steps = checkpointer.complete_steps(run.snapshots)
    assert steps == list(range(2, last + 1, 2))
    assert resolve(str(run.folder)).step == last
