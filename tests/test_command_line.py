"""The programs as people run them: on one device, in processes of their own."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from jaxdiff.data.source import open_source
from tests import tiny
from tests.conftest import ROOT
from tests.refusals import check
from tests.training import events
from tests.training.test_loop import saved_values

# Config files that no config comes of, and words that say why.
BROKEN = {
    "def get_config(:": "SyntaxError",
    "a\0b": "SyntaxError",
    "": "no function get_config",
    "import nothing_like_this": "nothing_like_this",
    "def get_config():\n  return 1/0": "line 2: ZeroDivisionError",
    "def get_config():\n  raise RuntimeError('two\\nlines')": "two lines",
    "def get_config():\n  return {}['name']": "KeyError: 'name'",
    "def get_config(a, b):\n  pass": "missing 2 required",
    "def get_config():\n  pass": "returns NoneType",
    "def get_config():\n  return {'seed': 1}": "returns dict",
    "class Config: pass\nget_config = Config": "returns Config",
    "import sys\nsys.exit(0)": "SystemExit",
    "def get_config():\n  raise SystemExit('enough')": "SystemExit: enough",
    "from ml_collections import ConfigDict\ndef get_config():\n  return ConfigDict()": "lacks data",
}


@pytest.fixture(scope="module", autouse=True)
def digits():
    """Prepared beforehand, so that no program tells of doing it."""
    return open_source("digits", "train", image_size=8, channels=1, num_classes=10)


def start(*arguments, devices=1, **environment):
    flags = f"--xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": flags, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*arguments, **kwargs):
    process = start(*arguments, **kwargs)
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def train_flags(workdir, **overrides):
    return [
        "train.py",
        "--config=configs/digits.py",
        f"--workdir={workdir}",
        *tiny.flags(**overrides),
    ]


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def test_train_is_killed_resumed_terminated_finished_and_sampled(tmp_path):
    workdir = tmp_path / "run"
    endless = {"training__num_steps": 100_000, "training__checkpoint_every": 10}

    def steps():
        folder = workdir / "checkpoints"
        return [p for p in folder.glob("*") if p.name.isdigit()]

    process = start(*train_flags(workdir, **endless))
    wait_for(lambda: steps() or process.poll() is not None)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL

    process = start(*train_flags(workdir, **endless))
    first = process.stdout.readline()
    while "from step" not in first:
        first = process.stdout.readline()
        assert first, process.stderr.read()
    assert first.startswith("Continuing from step")
    resumed = int(first.split()[3])
    assert resumed >= 10
    assert resumed % 10 == 0
    wait_for(lambda: any(int(p.name) > resumed for p in steps()))
    process.terminate()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, err
    assert "Stopped and saved at step" in out
    stopped = int(out.split("saved at step")[1].split(":")[0])
    assert max(int(p.name) for p in steps()) == stopped

    end = stopped + 3
    code, out, err = run(*train_flags(workdir, training__num_steps=end))
    assert code == 0, err
    assert f"Continuing from step {stopped} to {end}" in out
    assert f"Trained to step {end}" in out
    assert "Mesh:" in out
    assert "184,514" in out  # the parameter overview's total
    assert [*range(5, end + 1, 5)] == [
        step for step in events.read(workdir / "tensorboard")["loss"] if step % 5 == 0
    ]

    arguments = ["sample.py", f"--model={workdir}", "--num_samples=12"]
    code, out, err = run(*arguments, f"--out={tmp_path / 'one'}")
    assert code == 0, err
    code, out, err = run(*arguments, f"--out={tmp_path / 'many'}", "--batch_size=5", devices=8)
    assert code == 0, err
    one, many = (np.load(tmp_path / name / "samples_12x8x8x1.npz") for name in ("one", "many"))
    with one, many:
        np.testing.assert_array_equal(one["arr_1"], np.arange(12) % 10)
        # 2e-4 of a range of 2 may round to the next of 256 values.
        np.testing.assert_allclose(one["arr_0"].astype(int), many["arr_0"].astype(int), atol=1)
    manifest = json.loads((tmp_path / "one" / "manifest.json").read_text())
    assert manifest["model"] == f"{workdir}@{end}"
    code, _, err = run("sample.py", f"--model={workdir}@7", f"--out={tmp_path / 'x'}")
    assert (code, err.count("\n")) == (1, 1)
    assert "no step 7: it has 5, 10, 15" in err


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def run_together(*arguments, devices=1):
    """Two processes of one program, each of some devices; returns what each printed."""
    where = {"JAX_COORDINATOR_ADDRESS": f"localhost:{free_port()}", "JAX_NUM_PROCESSES": "2"}
    arguments = (*arguments, "--distributed")
    programs = [
        start(*arguments, devices=devices, JAX_PROCESS_ID=str(i), **where) for i in range(2)
    ]
    try:
        ends = [program.communicate(timeout=480) for program in programs]
    finally:
        for program in programs:
            program.kill()
    for program, (_, err) in zip(programs, ends, strict=True):
        assert program.returncode == 0, err
    return [out for out, _ in ends]


def test_two_processes_train_what_one_does_and_sample_together(tmp_path):
    # Snapshots and checkpoints of what is split within a process and copied across the two.
    settings = {"training__num_steps": 10, "mesh__fsdp": 2, "training__preview_every": 10}
    begun = {**settings, "training__num_steps": 5}
    first, second = run_together(*train_flags(tmp_path / "two", **begun), devices=2)
    assert "Trained to step 5" in first
    first, second = run_together(*train_flags(tmp_path / "two", **settings), devices=2)
    assert "Continuing from step 5" in first
    assert "Trained to step 10" in first
    assert "step" not in second  # one of them speaks
    code, _, err = run(*train_flags(tmp_path / "one", **settings), devices=4)
    assert code == 0, err
    one, two = (saved_values(tmp_path / name / "checkpoints", 10) for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, value in one.items():
        # Sums between processes round otherwise. Where a gradient is hardly more than rounding,
        # Adam makes a step of it that is a share of the learning rate, 1e-3; other data, or noise
        # of another key, would move parameters apart by about that in each of ten steps.
        np.testing.assert_allclose(two[name], value, rtol=1e-3, atol=2e-4, err_msg=name)
    out = tmp_path / "samples"
    run_together("sample.py", f"--model={tmp_path / 'two'}", "--num_samples=5", f"--out={out}")
    with np.load(out / "samples_5x8x8x1.npz") as arrays:
        np.testing.assert_array_equal(arrays["arr_1"], np.arange(5))


def test_train_refuses_in_one_sentence(tmp_path):
    digits, workdir = "--config=configs/digits.py", f"--workdir={tmp_path / 'run'}"
    lines = {
        digits: "--config is given 2 times",
        "--config.training.learning_rat=1": 'no field learning_rat: did you mean "learning_rate"?',
        "--config.trainin.num_steps=1": 'no field trainin: did you mean "training"?',
        "--config.training.num_steps=many": "many",
        "--config.training.num_steps.x=1": "no field training.num_steps.x",
        "--config.training.learning_rate=inf": "training.learning_rate is inf",
        "--config.model.channel_mult=(1e9,)": "model.channel_mult",
        "--config.data.image_size=1000000": "data.image_size is 1000000",
        "--config.training.batch_size=0": "training.batch_size is 0",
        "--config.data.name=digitz": "digitz is neither",
        "--config.data.name=mnist": "tfds build mnist",
        "--config.model.channels=33": "multiple of 8",
        "--config.sampling.steps=ddim999": "no whole stride",
        "--config.mesh.fsdp=3": "does not divide",
        "--workdir=/dev/null/run": "cannot be written",
        "--workdir=": "--workdir is missing",
        "--nonsense": "nonsense",
        "stray": "stray was not expected",
    }
    lines = [([digits, workdir, line], words) for line, words in lines.items()]
    configs = {"configs/nothing.py": "configs/nothing.py cannot be found"}
    for number, (text, words) in enumerate(BROKEN.items()):
        file = tmp_path / f"{number}.py"
        file.write_text(text)
        configs[file] = words
    lines += [([f"--config={file}", workdir], words) for file, words in configs.items()]
    check("train.py", "train.py", lines)
    assert not (tmp_path / "run").exists()


def test_sample_refuses_in_one_sentence():
    lines = [
        (["--model=nowhere", "--out=x"], "nowhere is not the folder of a run"),
        (["--out=x"], "--model is missing"),
        (["--model=x"], "--out is missing"),
        (["--model=x", "--out=y", "--sampler=euler"], "euler"),
        (["--model=x", "--out=y", "--num_samples=few"], "few"),
    ]
    check("sample.py", "sample.py", lines)


@pytest.mark.parametrize("program", ["train.py", "sample.py"])
def test_help_is_answered_without_heavy_imports(program):
    script = (
        "import runpy, sys; sys.argv = [sys.argv[1], '--help']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit: pass\n"
        "heavy = {'jax', 'flax', 'tensorflow', 'torch', 'orbax'} & set(sys.modules)\n"
        "sys.exit(repr(heavy) if heavy else 0)"
    )
    code, out, err = run("-c", script, program)
    assert code == 0, err
    assert "--" in out


def test_training_and_sampling_import_neither_tensorflow_nor_torch():
    script = (
        "import sys, jaxdiff.training.loop, jaxdiff.sampling.run_sampling, jaxdiff.data.digits\n"
        "sys.exit(repr({'tensorflow', 'torch'} & set(sys.modules)) "
        "if {'tensorflow', 'torch'} & set(sys.modules) else 0)"
    )
    code, _, err = run("-c", script)
    assert code == 0, err


def test_points_are_trained_by_the_same_program(tmp_path):
    workdir = tmp_path / "toy"
    flags = {
        "training.num_steps": 6,
        "training.batch_size": 64,
        "training.checkpoint_every": 6,
        "training.preview_every": 6,
        "training.power_ema": "(0.05,0.1)",
        "sampling.steps": 4,
    }
    code, out, err = run(
        "train.py",
        "--config=configs/toy_guide.py",
        f"--workdir={workdir}",
        *(f"--config.{name}={value}" for name, value in flags.items()),
    )
    assert code == 0, err
    assert "Trained to step 6" in out
    assert (workdir / "previews" / "6.png").exists()
    assert (workdir / "checkpoints" / "6").exists()
