"""Training in several processes of several devices, against one process; docs/run_folder.md."""

import json
import time

import jax
import numpy as np
import pytest
from etils import epath

from jaxdiff.checkpoints import checkpointer
from jaxdiff.training import loop
from tests.programs import ended, start_together
from tests.training import trainings
from tests.training.test_loop import saved_values

# After two steps. The learning rate of `linear.config` is 1e-3 after its warm-up: other data, or
# noise of another key, would move parameters apart by a share of that.
TOLERANCE = 1e-4
OFTEN = {"training.checkpoint_every": 2, "training.snapshot_every": 2, "training.log_every": 2}


def case(folder, name, steps, fields=(), **others):
    """A training of linear.config up to a step."""
    values = {**OFTEN, "training.num_steps": steps, **dict(fields)}
    return {"workdir": str(folder / name), "config": values, **others}


def together(folder, cases, count=2, devices=2):
    """[(status, problem of each case, stderr)] of processes that train these cases."""
    plan = folder / "plan.json"
    plan.write_text(json.dumps(cases))
    programs = start_together("-m", "tests.training.trainings", plan, count=count, devices=devices)
    found = []
    for status, out, err in ended(programs):
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
    classifier = {"model": "classifier", "training.preview_every": 2}
    failing = case(tmp_path, "failing", 4, classifier, trap="1:held-out")
    for status, problems, err in together(tmp_path, [several, failing]):
        assert status == 0, err
        assert problems[0] == ""
        assert "test.array_record" in problems[1] or "Another process" in problems[1]
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
def test_runs_continue_in_other_numbers_of_processes(tmp_path, monkeypatch, record_property):
    """Of 2 devices each: 4 processes, 2, 1, 2 and 4 again, 2 steps each; fsdp 1, 2 and 4."""
    sizes = (1, 2, 4)
    for turn, count in enumerate((4, 2, 1, 2, 4), 1):
        cases = [case(tmp_path, f"many{n}", 2 * turn, {"mesh.fsdp": n}) for n in sizes]
        if count == 1:
            for each in cases:
                alone(each, 4, monkeypatch)
        else:
            for status, problems, err in together(tmp_path, cases, count):
                assert (status, problems) == (0, [""] * 3), err
    for size in sizes:
        alone(case(tmp_path, f"one{size}", 10, {"mesh.fsdp": size}), 8, monkeypatch)
        many = tmp_path / f"many{size}"
        assert checkpointer.complete_steps(many / "snapshots") == [2, 4, 6, 8, 10]
        for step in (6, 8, 10):
            largest = assert_close(tmp_path / f"one{size}", many, step, 5 * TOLERANCE)
            record_property(f"fsdp {size}, step {step}", largest)
            print(f"fsdp {size}, step {step}: {largest:.2g}")


@pytest.mark.slow
def test_the_toy_after_two_steps(tmp_path, monkeypatch):
    """One device, one process of 4, and two processes of 2."""
    names = {"toy1": 1, "toy2": 2}
    cases = [case(tmp_path, n, 2, {"mesh.fsdp": size}, name="toy") for n, size in names.items()]
    for status, problems, err in together(tmp_path, cases):
        assert (status, problems) == (0, [""] * 2), err
    for devices in (1, 4):
        single = case(tmp_path, f"single{devices}", 2, name="toy")
        alone(single, devices, monkeypatch)
        for name in names:
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
    for status, problems, err in together(tmp_path, begun):
        assert status == 0, err
        assert problems[:2] + problems[3:] == [""] * 3
        assert "cannot be written" in problems[2]
    assert checkpointer.complete_steps(tmp_path / "preview" / "checkpoints") == [2]
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
