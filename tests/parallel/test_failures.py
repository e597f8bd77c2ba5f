"""What ends one process of a training run ends all, within a minute, and no step is half saved."""

import re
import signal
import time

import jax
import pytest
from etils import epath

from jaxdiff.checkpoints import checkpointer
from tests.parallel.test_metadata import NONE, Server
from tests.programs import ended, run_together, start_together

pytestmark = pytest.mark.slow
STEP = 12  # of the failure, after the checkpoint of step 10 has been begun
SECONDS = 60


def command(folder, steps):
    (folder / "config.py").write_text("from tests.training.linear import config as get_config")
    values = {"num_steps": steps, "checkpoint_every": 10, "snapshot_every": 10}
    given = [f"--config.training.{name}={value}" for name, value in values.items()]
    return [f"--config={folder / 'config.py'}", f"--workdir={folder / 'run'}", *given]


def failing(folder, fault, process, send=None, count=2):
    """[(status, stdout, stderr)] after a fault in one of the processes, and the seconds it took."""
    arguments = ("-m", "tests.parallel.faults", fault, process, STEP, *command(folder, 100_000))
    programs = start_together(*arguments, count=count)
    while (line := programs[process].stdout.readline()) != f"at {STEP}\n":
        assert line, programs[process].communicate()
    begun = time.monotonic()
    if send is not None:
        programs[process].send_signal(send)
    if send == signal.SIGSTOP:
        others = ended(programs[:process] + programs[process + 1 :], 2 * SECONDS)
        seconds = time.monotonic() - begun
        programs[process].kill()
        (last,) = ended([programs[process]])
        return [*others[:process], last, *others[process:]], seconds
    return ended(programs, 2 * SECONDS), time.monotonic() - begun


def whole_steps(folder):
    """Numbers of the checkpoints, which are read with their checksums."""
    steps = checkpointer.complete_steps(folder)
    for step in steps:
        names = checkpointer.read_meta(folder, step)["fingerprints"]
        shapes = {name: checkpointer.shapes(folder, step, name) for name in names}
        checkpointer.read(folder, step, jax.tree.map(_here, shapes))
    return steps


def _here(leaf):
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


KILLED, ABORTED, FULL = -signal.SIGKILL, -signal.SIGABRT, "cannot be written"
FAILED = "ZeroDivisionError"
# Python says it where a connection is closed; JAX aborts what waits for a checkpoint to be written.
LOST = None
CASES = {
    "a bug in process 1": ("bug", 1, None, [1, 1], FAILED),
    "a bug in process 0": ("bug", 0, None, [1, 1], FAILED),
    "a host's memory": ("memory", 1, None, [1, 1], "memory does not suffice"),
    "a device's memory": ("device_memory", 0, None, [1, 1], "memory does not suffice"),
    "the disk of process 0": ("disk", 0, None, [1, 1], FULL),
    "the disk of process 1": ("disk", 1, None, [1, 1], FULL),
    "process 1 killed": ("nothing", 1, signal.SIGKILL, [LOST, KILLED], "was lost|task died"),
    "process 0 killed": ("nothing", 0, signal.SIGKILL, [KILLED, ABORTED], "another task died"),
    "process 1 stopped": ("nothing", 1, signal.SIGSTOP, [ABORTED, KILLED], "not been heard of"),
    "SIGTERM in process 1": ("nothing", 1, signal.SIGTERM, [143, 143], "saved at step"),
    "one of four": ("bug", 2, None, [1, 1, 1, 1], FAILED),
}


@pytest.mark.parametrize("case", CASES)
def test_the_others_end_too_and_the_run_continues(tmp_path, case):
    fault, process, send, statuses, words = CASES[case]
    ends, seconds = failing(tmp_path, fault, process, send, len(statuses))
    print(f"{case}: {[status for status, _, _ in ends]} after {seconds:.0f} s")
    for expected, (status, _, err) in zip(statuses, ends, strict=True):
        assert status == expected or (expected == LOST and status in (1, ABORTED)), err
    assert any(re.search(words, out + err) for _, out, err in ends)
    if words == FAILED:
        assert all(f"Process {process} of {len(ends)} (" in err for _, _, err in ends[:process])
    assert seconds < SECONDS
    steps = whole_steps(epath.Path(tmp_path / "run" / "checkpoints"))
    goal = max(steps, default=0) + 10
    first, *_ = run_together("train.py", *command(tmp_path, goal), count=len(ends))
    assert f"Continuing from step {goal - 10} " in first if steps else "Training from" in first
    assert f"Trained to step {goal}" in first


def test_a_maintenance_notice_saves_all(tmp_path):
    server = Server(NONE)
    arguments = ("-m", "tests.parallel.faults", "nothing", 0, STEP, *command(tmp_path, 100_000))
    programs = start_together(*arguments, **server.environ)
    while (line := programs[1].stdout.readline()) != f"at {STEP}\n":
        assert line, programs[1].communicate()
    server.set("preempted", "TRUE")
    ends = ended(programs, 2 * SECONDS)
    assert [status for status, _, _ in ends] == [143, 143], ends
    (saved,) = re.findall(r"Stopped by SIGTERM and saved at step (\d+)", ends[0][1])
    assert whole_steps(epath.Path(tmp_path / "run" / "checkpoints"))[-1] == int(saved)
