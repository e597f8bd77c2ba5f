"""Sampling jobs of several processes: killed and started again, on a disk and on gs://."""

import collections
import contextlib
import os
import random
import signal
import socket
import time
from functools import partial

import numpy as np
import pytest
from etils import epath

from jaxdiff import factory, files
from jaxdiff.checkpoints.checkpointer import Checkpointer
from jaxdiff.checkpoints.power_ema import profile_name
from jaxdiff.checkpoints.run import Run
from tests import tiny
from tests.object_storage import environment
from tests.programs import start, wait_for
from tests.runs import make_run, random_params

pytestmark = pytest.mark.slow

# sample.py, which notes each shard that it begins and ends; together they end no more shards than a
# file allows, however fast or slow the machine is.
WORKER = """
import os, sys, time
from jaxdiff import locks, stopping
from jaxdiff.sampling import command
from jaxdiff.sampling.job import Job

locks.BEAT, locks.DEAD = 1, 8  # seconds, on gs://
sys.argv[0] = "sample.py"
sample = Job.sample

NOTES = os.environ["NOTES"]

def note(what, numbers):
    with open(NOTES, "a") as notes:
        notes.write(f"{what} {numbers[0]} {os.getpid()}\\n")

def has_to_wait():
    with open(NOTES) as notes, open(NOTES + ".allowed") as allowed:
        return notes.read().count("end") >= int(allowed.read() or 0)

def noted(job, params, numbers, *args, **kwargs):
    note("begin", numbers)
    found = sample(job, params, numbers, *args, **kwargs)
    while has_to_wait():
        time.sleep(0.1)
        stopping.check()
    note("end", numbers)
    return found

Job.sample = noted
command.main()
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "run", tiny.config())


def launch(run, out, notes, index, *flags, count=4, **variables):
    """A process of a job of several, which find themselves by variables, and never join."""
    where = {
        "JAX_COORDINATOR_ADDRESS": "localhost:1",  # where nobody is
        "JAX_NUM_PROCESSES": str(count),
        "JAX_PROCESS_ID": str(index),
    }
    arguments = ["-c", WORKER, f"--model={run}", f"--out={out}", *flags]
    variables = {"NOTES": str(notes), "OMP_NUM_THREADS": "1", **variables}
    return start(*arguments, **where, **variables)


def allow(notes, count):
    """Lets the processes end this many shards in all."""
    files.write_text(epath.Path(f"{notes}.allowed"), str(count))


def ended(program, status=0):
    """What a program has printed, which ends with a status."""
    out, err = program.communicate(timeout=300)
    assert program.returncode == status, err
    assert "Traceback" not in err
    return out


def kill_and_restart(make, kills, notes):
    """Starts a process and kills it at random moments; starts it a last time.

    Of two kills one is between the start and the first shard, or soon after, and one when it is on
    a shard. The job proceeds by two shards with each.

    Returns:
      (the last process, pids of those that were killed).
    """
    rng, killed = random.Random(0), []
    for number in range(kills):
        allow(notes, 2 * number + 2)
        program = make()

        def on_a_shard(program=program):
            assert program.poll() is None, (len(killed), program.communicate())
            return notes.exists() and f" {program.pid}\n" in notes.read_text()

        if number % 2:
            wait_for(on_a_shard, 240)
        time.sleep(rng.uniform(0, 2 if number % 2 else 12))
        assert program.poll() is None, (len(killed), program.communicate())
        program.send_signal(signal.SIGKILL)
        program.communicate()
        killed.append(program.pid)
    allow(notes, 10**6)
    return make(), killed


def check_notes(notes, total, killed):
    """Each kill repeats at most the one shard that its process was on."""
    lines = [line.split() for line in notes.read_text().splitlines()]
    begun = collections.Counter(number for what, number, _ in lines if what == "begin")
    ended = {(number, pid) for what, number, pid in lines if what == "end"}
    assert len(begun) == total
    lost = collections.Counter()
    for pid in map(str, killed):
        own = [number for what, number, other in lines if what == "begin" and other == pid]
        # It ended all shards that it began but the last; that may be there as well.
        assert all((number, pid) in ended for number in own[:-1])
        lost.update(own[-1:])
    assert all(begun[number] <= 1 + lost[number] for number in begun), (begun, lost)
    return sum(begun.values()) - total


def test_four_processes_of_which_one_is_killed_twenty_times(run, tmp_path):
    """5,000 samples in shards of 100 are, byte for byte, those that one process makes."""
    flags, notes = ["--num_samples=5000", "--shard_size=100", "--batch_size=100"], tmp_path / "n"
    out, alone = tmp_path / "out", tmp_path / "samples"
    begin = time.monotonic()
    allow(notes, 0)
    others = [launch(run, out, notes, index, *flags) for index in (0, 1, 2)]
    last, killed = kill_and_restart(partial(launch, run, out, notes, 3, *flags), 20, notes)
    said = [ended(program) for program in (*others, last)]
    print(f"4 processes, 20 kills, 50 shards: {time.monotonic() - begin:.0f} s")
    repeated = check_notes(notes, 50, killed)
    print(f"{repeated} shards were sampled again")
    assert repeated >= 3, "some kills were within a shard"
    assert any("5000 samples are in" in text for text in said)
    allow(tmp_path / "alone", 10**6)
    ended(launch(run, alone, tmp_path / "alone", 0, *flags, count=1))
    for name in ("samples_5000x8x8x1.npz", "grid.png", "settings.json", "manifest.json"):
        assert (out / name).read_bytes() == (alone / name).read_bytes(), name
    assert len(files.names(out)) == 4


def test_two_processes_on_gs_of_which_one_is_killed_five_times(run, tmp_path, bucket):
    """500 samples in shards of 25; the locks of killed processes are taken over."""
    flags, notes = ["--num_samples=500", "--shard_size=25", "--batch_size=25"], tmp_path / "n"
    out, alone = bucket / "jobs" / "out", tmp_path / "samples"
    port = int(os.environ["STORAGE_EMULATOR_HOST"].rpartition(":")[2])
    fields = {"count": 2, **environment(port)}
    begin = time.monotonic()
    allow(notes, 0)
    other = launch(run, out, notes, 0, *flags, **fields)
    make = partial(launch, run, out, notes, 1, *flags, **fields)
    last, killed = kill_and_restart(make, 5, notes)
    said = [ended(program) for program in (other, last)]
    print(f"2 processes on gs://, 5 kills, 20 shards: {time.monotonic() - begin:.0f} s")
    print(f"{check_notes(notes, 20, killed)} shards were sampled again")
    assert any("500 samples are in" in text for text in said)
    allow(tmp_path / "alone", 10**6)
    ended(launch(run, alone, tmp_path / "alone", 0, *flags, count=1))
    name = "samples_500x8x8x1.npz"
    assert files.read_bytes(out / name) == (alone / name).read_bytes()
    assert sorted(files.names(out)) == ["grid.png", "manifest.json", name, "settings.json"]


def test_the_same_command_twice_at_once_and_another(run, tmp_path):
    out, notes = tmp_path / "out", tmp_path / "n"
    flags = ["--num_samples=40", "--shard_size=10"]
    allow(notes, 0)
    programs = [launch(run, out, notes, 0, *flags, count=1) for _ in range(2)]
    wait_for(lambda: notes.exists() and notes.read_text().count("begin") == 2)
    other = launch(run, out, notes, 0, *flags, "--seed=1", count=1)
    assert "with another seed" in other.communicate(timeout=240)[1]
    assert other.returncode == 1
    allow(notes, 10**6)
    said = [ended(program) for program in programs]
    assert check_notes(notes, 4, []) == 0
    assert any("40 samples are in" in text for text in said)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_frees_the_shard_and_leaves_nothing_half_written(run, tmp_path, number, status):
    out, notes = tmp_path / "out", tmp_path / "n"
    flags = ["--num_samples=40", "--shard_size=20", "--batch_size=10"]
    allow(notes, 1)
    program = launch(run, out, notes, 0, *flags)
    wait_for(lambda: notes.exists() and notes.read_text().count("begin") == 2)
    program.send_signal(number)
    ended(program, status)
    assert files.names(out) == ["settings.json", "shards"]
    assert files.names(out / "shards") == ["00000-of-00002.npz"]
    allow(notes, 2)
    ended(launch(run, out, notes, 1, *flags))
    assert (out / "manifest.json").exists()


JOINED = """
import os, sys, time
import jax
jax.distributed.initialize(os.environ["AT"], 2, int(sys.argv.pop(1)))
assert jax.process_count() == 2 and len(jax.devices()) == 2
if jax.process_index() == 1:  # whose number is not 0
    from jaxdiff.sampling import command
    sys.argv[0] = "sample.py"
    command.main()
    open(os.environ["DONE"], "w").close()
while not os.path.exists(os.environ["DONE"]):
    time.sleep(0.1)
"""


def make_power_run(folder):
    """A run whose average of another length is rebuilt from its snapshots."""
    run = Run(epath.Path(folder))
    run.write_config(tiny.config(training__power_ema=(0.05, 0.1)))
    names = [profile_name(length) for length in (0.05, 0.1)]
    with contextlib.closing(Checkpointer(run.snapshots)) as snapshots:
        for step in (200, 400):
            params = random_params(factory.network(run.config()), seed=step)
            snapshots.save(step, {"ema": dict.fromkeys(names, params)}, {"ema": names})


@pytest.mark.parametrize("reference", ["", ":ema=0.07"])
def test_a_process_samples_while_another_that_jax_knows_of_sleeps(tmp_path, reference):
    """As on a TPU pod, where JAX counts all hosts though nobody has joined them."""
    folder, out = tmp_path / "run", tmp_path / "out"
    if reference:
        make_power_run(folder)
    else:
        make_run(folder, tiny.config())
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        at = f"localhost:{listener.getsockname()[1]}"
    variables = {"AT": at, "DONE": str(tmp_path / "done")}
    flags = [f"--model={folder}{reference}", f"--out={out}", "--num_samples=10", "--batch_size=10"]
    programs = [start("-c", JOINED, index, *flags, **variables) for index in range(2)]
    try:
        assert "10 samples are in" in ended(programs[1])
        ended(programs[0])
    finally:
        for program in programs:
            program.kill()
    with np.load(out / "samples_10x8x8x1.npz") as arrays:
        assert arrays["arr_0"].shape == (10, 8, 8, 1)
