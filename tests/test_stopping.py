"""Programs that are asked to stop: in one line, and leaving nothing half written."""

import itertools
import signal

import jax
import numpy as np
import pytest

from jaxdiff import stopping
from jaxdiff.parallel import batches
from tests import tiny
from tests.programs import start, start_together, wait_for
from tests.runs import make_run

PROGRAM = """
import time
from jaxdiff import cli, files
def main(args):
    with files.replacing(files.parse_path(args.out, "--out")) as file:
        file.write(b"half")
        print("begun", flush=True)
        time.sleep(600)
parser = cli.Parser("Writes a file")
cli.add_flag(parser, "out")
cli.run(main, parser)
"""


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"]
)
def test_a_program_ends_in_one_line_and_leaves_nothing_half_written(tmp_path, number, status):
    program = start("-c", PROGRAM, "--out", tmp_path / "x")
    assert program.stdout.readline() == "begun\n"
    assert len(list(tmp_path.iterdir())) == 1
    program.send_signal(number)
    _, said = program.communicate(timeout=60)
    assert program.returncode == status
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_two_processes_that_encode_end_together(tmp_path):
    images, out = tmp_path / "images.npz", tmp_path / "latents.npz"
    np.savez(images, arr_0=np.zeros((200_000, 8, 8, 1), np.uint8), arr_1=np.zeros(200_000, int))
    arguments = ["-m", "jaxdiff.sampling.encode", f"--out={out}", f"--images={images}"]
    arguments += [f"--model={make_run(tmp_path / 'run', tiny.config())}", "--batch_size=40"]
    programs = start_together(*arguments)
    lock = tmp_path / ".latents.npz.lock"
    wait_for(lambda: lock.exists() or programs[0].poll() is not None)
    programs[1].terminate()
    for program in programs:
        _, said = program.communicate(timeout=240)
        assert program.returncode == 143, said
        assert "Traceback" not in said
    assert not out.exists()
    assert not lock.exists()


def test_processes_stop_together_before_a_batch(monkeypatch, one_device, capfd):
    asked, done = [], []

    def reached(step):
        asked.append(step)
        return len(asked) == 3

    monkeypatch.setitem(vars(one_device), "is_multi_process", True)
    monkeypatch.setattr(batches.multihost_utils, "reached_preemption_sync_point", reached)

    def function(x):
        done.append(len(x))
        return jax.device_put(x)

    def run(count):
        return batches.in_batches(
            function, lambda rows: (rows,), count, batch_size=2, mesh=one_device, quiet=True
        )

    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)  # whatever another test has left
    np.testing.assert_array_equal(run(2), [0, 1])
    assert asked == [], "within training, which asks itself"
    stopping.listen()
    np.testing.assert_array_equal(run(2), [0, 1])
    with pytest.raises(SystemExit) as caught:
        run(10)
    signal.signal(signal.SIGTERM, before)
    assert caught.value.code == 143
    assert done == [2, 2, 2]
    assert all(b == a + 1 for a, b in itertools.pairwise(asked)), "steps never repeat"
    assert capfd.readouterr().err.count("\n") == 1
