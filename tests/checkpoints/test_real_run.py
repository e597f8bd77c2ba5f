"""A short real run that tracks a third average, which is rebuilt from the two others."""

import json
import shutil

import jax
import numpy as np
import pytest
from etils import epath

from jaxdiff import factory, files
from jaxdiff.checkpoints import checkpointer, ema, posthoc_ema
from jaxdiff.checkpoints.power_ema import ROUNDING, profile_name
from jaxdiff.checkpoints.run import Run, read_ema, resolve
from jaxdiff.config import replaced
from jaxdiff.parallel.mesh import make_mesh, placed, replicated
from jaxdiff.sampling import command as sampling_command
from jaxdiff.training import loop
from tests import tiny
from tests.programs import call, refused, run_together
from tests.programs import run as run_program

STEPS, THIRD = 40, 0.15


@pytest.fixture(scope="module")
def trained(tmp_path_factory, alone):
    folder = epath.Path(tmp_path_factory.mktemp("real")) / "run"
    config = tiny.config(
        training__power_ema=(0.05, 0.1, THIRD),
        training__num_steps=STEPS,
        training__snapshot_every=2,
        training__checkpoint_every=STEPS,
    )
    loop.train(config, folder)
    return Run(folder)


def one_mesh():
    return make_mesh(devices=jax.devices()[:1])


def without_third(trained, folder, every):
    """A copy of the run with two averages, with fewer snapshots."""
    folder = epath.Path(folder)
    shutil.copytree(trained.folder, folder)
    for path in (folder / "snapshots").iterdir():
        if path.name.isdigit() and int(path.name) % every:
            shutil.rmtree(path)
        elif path.name.isdigit():
            meta = path / "meta" / "metadata"
            values = json.loads(meta.read_text())
            values["ema"].remove(profile_name(THIRD))
            del values["checksum"]
            meta.write_text(json.dumps(values))
    return Run(folder)


def arguments(run):
    """(shapes, shardings) of the run's parameters."""
    shapes = factory.network(run.config()).shapes
    return shapes, jax.tree.map(lambda _: replicated(one_mesh()), shapes)


def template(run):
    return placed(*arguments(run))


def tracked(run, length):
    name = profile_name(length)
    items, _ = checkpointer.read(run.snapshots, STEPS, {"ema": {name: template(run)}}, partly=True)
    return items["ema"][name]


def distance(a, b):
    squares = jax.tree.map(lambda x, y: float(np.sum(np.square(np.subtract(x, y)))), a, b)
    return np.sqrt(sum(jax.tree.leaves(squares)))


def test_the_third_average_is_rebuilt_and_better_from_more_snapshots(trained, tmp_path):
    expected = tracked(trained, THIRD)
    far = distance(tracked(trained, 0.1), expected)
    errors = []
    for every in (8, 4, 2):
        run = without_third(trained, tmp_path / str(every), every)
        plan = posthoc_ema.plan(run.folder, (THIRD,), STEPS)
        assert not plan.tracked(THIRD)
        (got,) = posthoc_ema.rebuild(plan, template(run))
        errors.append(distance(got, expected) / far)
    assert errors[0] < 0.3
    assert errors[1] < errors[0] / 2
    assert errors[2] < errors[1] / 2
    assert errors[2] < 0.01


def test_a_tracked_average_is_the_one_that_was_tracked(trained):
    run = trained
    got = read_ema(resolve(f"{run.folder}:ema={THIRD}"), *arguments(run))
    jax.tree.map(np.testing.assert_array_equal, got, tracked(run, THIRD))


def test_the_command_lines(trained, tmp_path, capsys):
    run = without_third(trained, tmp_path / "run", 2)
    command = (run.folder, "--step=40")
    code, out, err = run_program(
        "-m", "jaxdiff.checkpoints.ema", *command, "--length=0.05,0.12,0.15,0.2"
    )
    assert code == 0, err
    assert "| 0.05 | 1 | 1 | 0 | 2.5e-08 |" in out
    assert "| 0.12 | 20 | " in out
    assert "Rebuilt 3 averages at step 40" in out
    assert files.names(run.folder / "ema") == ["0.12", "0.15", "0.2"]
    assert call(ema.main, *command, "--length=0.12,0.13") == 0
    assert "Rebuilt 1 averages" in capsys.readouterr().out

    other = epath.Path(tmp_path) / "other"
    assert call(ema.main, *command, "--length=0.12,0.15", f"--out={other}") == 0
    assert files.names(other) == ["config.json", "snapshots"]
    a, b = (str(resolve(f"{folder}@40:ema=0.15")) for folder in (run.folder, other))
    got = [read_ema(resolve(text), *arguments(run)) for text in (a, b)]
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), *got)
    lines = [
        ((*command, "--length=0.12", f"--out={other}"), "not empty"),
        ((*command, "--length=0.12,0.01"), "length 0.01 at step 40"),
        (command, "--length"),
        ((tmp_path / "none", "--length=0.12"), "config.json"),
    ]
    refused(ema.main, capsys, lines)

    guide, out = f"{run.folder}@20:ema=0.17", tmp_path / "samples"
    request = (f"--guide={guide}", "--weight=2", "--num_samples=4", f"--out={out}")
    assert call(sampling_command.main, f"--model={other}:ema=0.12", *request) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["model"] == f"{other}@40:ema=0.12"
    assert guide in json.dumps(manifest["guidance"])
    assert files.exists(run.folder / "ema" / "0.17" / "20")


def test_two_processes_rebuild_what_one_does(trained, tmp_path):
    run = without_third(trained, tmp_path / "run", 4)
    plan = posthoc_ema.plan(run.folder, (0.12,))
    (expected,) = posthoc_ema.rebuild(plan, template(run))
    arguments = ("-m", "jaxdiff.checkpoints.ema", run.folder, "--length=0.12")
    first, second = run_together(*arguments)
    assert "Rebuilt 1 averages" in first
    assert "|" not in second  # one of them prints
    assert posthoc_ema.is_kept(plan, 0.12)
    assert files.names(run.folder / "ema") == ["0.12"]
    got = posthoc_ema.average(run.folder, 0.12, STEPS, template(run))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), got, expected)


def test_a_run_may_continue_with_snapshots_in_bfloat16(trained, tmp_path):
    run = Run(epath.Path(tmp_path) / "run")
    shutil.copytree(trained.folder, run.folder)
    changed = {"training.num_steps": STEPS + 2, "training.snapshot_dtype": "bfloat16"}
    loop.train(replaced(run.config(), changed), run.folder)
    plan = posthoc_ema.plan(run.folder, (0.1, 0.12))
    assert plan.step == STEPS + 2
    assert [s.dtype for s in plan.snapshots[-2:]] == ["float32", "bfloat16"]
    got = posthoc_ema.rebuild(plan, template(run))
    shapes = jax.tree.leaves(checkpointer.shapes(run.snapshots, plan.step, "ema"))
    assert {str(leaf.dtype) for leaf in shapes} == {"bfloat16"}
    # The checkpoint has the first as it was before rounding.
    name = profile_name(0.1)
    items, _ = checkpointer.read(
        run.checkpoints, plan.step, {"ema": {name: template(run)}}, partly=True
    )
    exact = items["ema"][name]
    size = distance(exact, jax.tree.map(np.zeros_like, exact))
    assert 0.5 * ROUNDING["bfloat16"] < distance(got[0], exact) / size < 2 * ROUNDING["bfloat16"]
