"""The programs as people run them: in processes of their own, and what they refuse."""

import json
import signal

import numpy as np

from configs import digits
from jaxdiff import commands
from jaxdiff.config import replaced, to_dict
from jaxdiff.files import json_text
from jaxdiff.training import command, loop
from tests import tiny
from tests.programs import call, refused, run, run_together, start, wait_for
from tests.training import events, linear
from tests.training.test_loop import saved_values


def train_flags(workdir, **overrides):
    flags = ["train.py", "--config=configs/digits.py", f"--workdir={workdir}"]
    return [*flags, *tiny.flags(**overrides)]


def test_train_is_killed_resumed_terminated_finished_and_sampled(tmp_path):
    workdir = tmp_path / "run"
    endless = {"training__num_steps": 100_000, "training__checkpoint_every": 10}

    def steps():
        return [int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdigit()]

    process = start(*train_flags(workdir, **endless))
    wait_for(lambda: steps() or process.poll() is not None)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL

    process = start(*train_flags(workdir, **endless))
    line = process.stdout.readline()
    while not line.startswith("Continuing from step"):
        line = process.stdout.readline()
    resumed = int(line.split()[3])
    assert resumed >= 10
    assert resumed % 10 == 0
    wait_for(lambda: max(steps()) > resumed)
    process.terminate()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, err
    stopped = int(out.split("saved at step")[1].split()[0])
    assert max(steps()) == stopped

    end = stopped + 3
    code, out, err = run(*train_flags(workdir, training__num_steps=end))
    assert code == 0, err
    assert f"Continuing from step {stopped} to {end}" in out
    assert f"Trained to step {end}" in out
    assert "184,514" in out  # the number of parameters
    assert [*range(5, end + 1, 5)] == [
        step for step in events.read(workdir / "tensorboard")["loss"] if step % 5 == 0
    ]
    out = tmp_path / "samples"
    code, _, err = run("sample.py", f"--model={workdir}", "--num_samples=12", f"--out={out}")
    assert code == 0, err
    with np.load(out / "samples_12x8x8x1.npz") as arrays:
        np.testing.assert_array_equal(arrays["arr_1"], np.arange(12) % 10)
    assert json.loads((out / "manifest.json").read_text())["model"] == f"{workdir}@{end}"


def test_two_processes_train_what_one_does(tmp_path):
    """A small network, whose checkpoints are split within a process; the one is this process."""
    (tmp_path / "config.py").write_text("from tests.training.linear import config as get_config")
    values = {"training.num_steps": 5, "mesh.fsdp": 2}
    given = [f"--config.{field}={value}" for field, value in values.items()]
    where = (f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'two'}")
    first, second = run_together("train.py", *where, *given, devices=2)
    assert "Trained to step 5" in first
    assert "step" not in second  # one of them speaks
    loop.train(replaced(linear.config(), values), str(tmp_path / "one"))
    one, two = (saved_values(tmp_path / name / "checkpoints", 5) for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, value in one.items():
        # Sums between processes round otherwise. Where a gradient is hardly more than rounding,
        # Adam makes a step of it that is a share of the learning rate, 1e-3; other data, or noise
        # of another key, would move parameters apart by about that in each step.
        np.testing.assert_allclose(two[name], value, rtol=1e-3, atol=2e-4, err_msg=name)


def test_train_refuses_in_one_sentence(tmp_path, capsys):
    config, workdir = "--config=configs/digits.py", f"--workdir={tmp_path / 'run'}"
    lines = {
        config: "2 times",
        "--config.training.learning_rat=1": "learning_rate",
        "--config.training.num_steps=many": "many",
        "--config.model.kind=dit": "model.kind",
        "--config.training.batch_size=12": "batch_size 12",
        "--config.sampling.steps=ddim999": "999",
        "--config.data.prepare=nothing.like:this": "nothing.like",
        "--config.mesh.fsdp=3": "fsdp 3",
        "--workdir=/dev/null/run": "/dev/null/run",
        "--workdir=": "--workdir is missing",
        "--workdi=x": "did you mean --workdir?",
        "--import=nothing_like_this": "nothing_like_this",
        "stray": "stray",
    }
    refused(command.main, capsys, [([config, workdir, line], word) for line, word in lines.items()])
    refused(command.main, capsys, [([workdir], "--config is missing")])
    assert not (tmp_path / "run").exists()


def test_the_config_is_printed_as_a_run_would_hold_it(capsys):
    assert call(command.main, "--config=digits", "--config.seed=3", "--print_config") == 0
    expected = json_text(to_dict(replaced(digits.get_config(), {"seed": 3})))
    assert capsys.readouterr().out == expected + "\n"


HELP = """
import sys, time
from jaxdiff.commands import COMMANDS, main
for name in COMMANDS:
    sys.argv, begun = ["jaxdiff", name, "--help"], time.process_time()
    try:
        main()
    except SystemExit as stop:
        assert not stop.code, stop.code
    assert time.process_time() - begun < 3, name
    heavy = {"jax", "flax", "tensorflow", "torch", "orbax"} & set(sys.modules)
    assert not heavy or name == "openai", (name, heavy)
"""


def test_help_is_answered_without_heavy_imports():
    code, out, err = run("-c", HELP)
    assert code == 0, err
    assert out.count("usage:") == len(commands.COMMANDS)


def test_the_help_of_a_config_lists_its_fields(capsys):
    assert call(command.main, "--config=digits", "--help") == 0
    out = capsys.readouterr().out
    assert "--config.model.channels=32" in out
    assert "--config.diffusion.condition_dropout=0.1" in out


def test_the_command_runs_others_by_name(capsys):
    assert call(commands.main, "train", "--config=digits") == 1
    assert capsys.readouterr().err.startswith("jaxdiff train: --workdir is missing")
    assert call(commands.main, "trian") == 1
    assert "did you mean train?" in capsys.readouterr().err
    assert call(commands.main) == 0
    assert "train" in capsys.readouterr().out
