"""Jobs: the folder of shards that becomes results, and what a finished or killed one leaves."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from etils import epath
from PIL import Image as PillowImage

import jaxdiff
from jaxdiff import claims, factory
from jaxdiff.config import DDIM, DDPM
from jaxdiff.errors import UserError
from jaxdiff.models.codecs import Pixels
from jaxdiff.parallel.mesh import make_mesh
from jaxdiff.sampling import run_sampling
from jaxdiff.sampling.pipeline import Params, Pipeline
from jaxdiff.sampling.trained_model import load
from tests import tiny
from tests.conftest import ROOT
from tests.runs import make_run, random_params, sample

THREES = {"label": np.resize([3, 7, 8], 13)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "labelled", tiny.config())


@pytest.fixture(scope="module")
def model(folder, alone):
    return load(folder)


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory):
    """(folder, arrays, manifest) of 13 samples in shards of 4."""
    out = tmp_path_factory.mktemp("samples") / "out"
    return out, *sample(out, model, 13, cond=THREES, seed=4, shard=4, batch_size=4)


def test_files_and_manifest(folder, finished):
    out, arrays, manifest = finished
    assert {p.name for p in out.iterdir()} == {
        "samples_13x8x8x1.npz",
        "grid.png",
        "settings.json",
        "manifest.json",
    }
    assert (arrays["arr_0"].shape, arrays["arr_0"].dtype) == ((13, 8, 8, 1), np.uint8)
    assert arrays["arr_1"].dtype == np.int64
    np.testing.assert_array_equal(arrays["arr_1"], THREES["label"])
    assert manifest["model"] == f"{folder}@10"
    assert manifest["sampling"]["num_steps"] == 4
    assert manifest["network_evaluations_per_sample"] == {"model": 4}
    assert manifest["seed"] == 4
    for name, checksum in manifest["sha256"].items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == checksum
    with PillowImage.open(out / "grid.png") as picture:
        assert picture.size == (3 * 52, 5 * 64)  # a column a class, captions below


def test_shards_make_the_samples_that_one_call_makes(model, finished, tmp_path):
    _, arrays, manifest = finished
    samples = model.sample(13, cond=THREES, seed=4, batch_size=4)
    np.testing.assert_array_equal(samples.images, arrays["arr_0"])
    samples.save(tmp_path / "out")
    saved = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert saved["sha256"] == manifest["sha256"]
    read = jaxdiff.load_samples(tmp_path / "out")
    np.testing.assert_array_equal(read.images, samples.images)
    np.testing.assert_array_equal(read.cond["label"], samples.cond["label"])
    # Another batch size is no other request.
    found, _ = sample(finished[0], model, 13, cond=THREES, seed=4, shard=4, batch_size=3)
    np.testing.assert_array_equal(found["arr_0"], arrays["arr_0"])


def test_a_job_that_fails_late_loses_one_shard(model, finished, tmp_path, monkeypatch):
    job, calls = model.job(13, cond=THREES, seed=4, batch_size=4), []
    whole = run_sampling.Job.sample

    def fails_at(number):
        def run(job, params, numbers, *args, **kwargs):
            calls.append(int(numbers[0]))
            if len(calls) == number:
                raise RuntimeError("killed")
            return whole(job, params, numbers, *args, **kwargs)

        return run

    out = epath.Path(tmp_path / "out")
    monkeypatch.setattr(run_sampling.Job, "sample", fails_at(4))
    with pytest.raises(RuntimeError):
        run_sampling.run(job, out, shard=4)
    assert sorted(p.name for p in (out / "shards").iterdir()) == [
        f"{n:05d}-of-00004.npz" for n in range(3)
    ]
    with pytest.raises(UserError, match="seed"):
        run_sampling.run(model.job(13, cond=THREES, seed=5, batch_size=4), out, shard=4)
    monkeypatch.setattr(run_sampling.Job, "sample", fails_at(0))
    run_sampling.run(job, out, shard=4)
    assert calls == [0, 4, 8, 12, 12]
    with np.load(out / "samples_13x8x8x1.npz") as arrays:
        np.testing.assert_array_equal(arrays["arr_0"], finished[1]["arr_0"])
    assert not (out / "shards").exists()


KILLED = """
import sys, time
from etils import epath
from jaxdiff.sampling import run_sampling
from jaxdiff.sampling.trained_model import load

model = load(sys.argv[1])
whole = run_sampling.Job.sample

def slow(*args, **kwargs):
    found = whole(*args, **kwargs)
    time.sleep(0.3)
    return found

run_sampling.Job.sample = slow
run_sampling.run(model.job(60, batch_size=2, seed=1), epath.Path(sys.argv[2]), shard=2)
"""


def test_a_killed_job_is_continued_by_another_process(folder, model, tmp_path):
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, folder, str(out)],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + 240
        while len(list((out / "shards").glob("0*.npz"))) < 3:
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    before = {p.name: p.stat().st_mtime_ns for p in (out / "shards").glob("0*.npz")}
    assert 3 <= len(before) < 30
    stats, remove = {}, run_sampling.files.remove_tree

    def note(path):
        if path.name == "shards":
            stats.update({p.name: os.stat(p).st_mtime_ns for p in path.iterdir()})
        remove(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_sampling.files, "remove_tree", note)
        arrays, _ = sample(out, model, 60, batch_size=2, seed=1, shard=2)
    assert before.items() <= stats.items()
    expected = model.sample(60, batch_size=2, seed=1)
    np.testing.assert_array_equal(arrays["arr_0"], expected.images)


def test_a_finished_job_does_nothing_and_what_was_changed_is_refused(
    model, finished, tmp_path, monkeypatch
):
    out, fields = tmp_path / "out", {"cond": THREES, "seed": 4, "shard": 4, "batch_size": 4}
    shutil.copytree(finished[0], out)
    (out / "shards").mkdir()  # of a program that was killed at the very end
    monkeypatch.setattr(run_sampling.Job, "sample", None)
    _, manifest = sample(out, model, 13, **fields)
    assert manifest == finished[2]
    assert not (out / "shards").exists()
    for request, name in (
        ({"seed": 1}, "seed"),
        ({"cond": {"label": 3}}, "conditions"),
        ({"guidance": jaxdiff.CFG(2)}, "guidance"),
    ):
        with pytest.raises(UserError, match=name):
            sample(out, model, 13, **{**fields, **request})
    (out / "grid.png").write_bytes(b"theirs")
    with pytest.raises(UserError, match=r"grid\.png"):
        sample(out, model, 13, **fields)
    assert (out / "grid.png").read_bytes() == b"theirs"
    manifest = (out / "manifest.json").read_bytes()
    (out / "manifest.json").write_bytes(manifest.replace(b'"seed": 4', b'"seed": 1'))
    with pytest.raises(UserError, match=r"manifest\.json"):
        sample(out, model, 13, **fields)


def test_folders_that_are_not_ours_are_refused(folder, model, tmp_path):
    out = epath.Path(tmp_path / "out")
    job = model.job(4)
    claim = claims.claimed_folder(out, {**job.settings, "shard": 1024}, run_sampling.SETTINGS)
    with claim, pytest.raises(UserError, match="in use by process"):
        run_sampling.run(job, out)
    with pytest.raises(UserError, match=r"config\.json"):
        run_sampling.run(job, epath.Path(folder))
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "samples_1.npz").touch()
    with pytest.raises(UserError, match="samples_1"):
        run_sampling.run(job, epath.Path(theirs))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        run_sampling.run(job, epath.Path(tmp_path / "file" / "out"))


def test_a_run_that_was_made_again_is_another(model, tmp_path):
    request = {"n": 4, "cond": {"label": 1}}
    first = load(make_run(tmp_path / "run", tiny.config()))
    sample(tmp_path / "out", first, **request)
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(UserError, match="networks"):
        sample(tmp_path / "out", make_run(tmp_path / "run", tiny.config(), seed=7), **request)


@pytest.mark.parametrize(
    ("spec", "cases"),
    [
        (DDPM(steps=4), [(1, 1), (1, 7), (1, 64), (8, 7)]),
        (DDIM(steps=4, eta=0.5), [(1, 7), (1, 64), (2, 64)]),
    ],
)
def test_a_sample_is_the_same_in_any_batch_on_any_devices(spec, cases):
    """To within rounding, which the first step's 1/alpha enlarges.

    Sums come out in another order where a device's batch has another size; what the devices are
    does not matter (8 devices with a batch of 7 give the bits of 1 device with a batch of 1). One
    evaluation of the network then differs by up to 1.6 units of float32 rounding (2^-23 = 1.2e-7,
    of outputs below 1). The first level of these 4 steps has alpha = 0.0025, and
    x0 = (x - sigma * output) / alpha enlarges the difference by 1 / alpha = 406, in the few pixels
    that clipping to [-1, 1] leaves as they are: about 4 of 4096. The other steps keep it. Against
    the same samples in float64 either batch size is wrong by the same amount (up to 3.5e-5), in
    these pixels alone. Over 36 pairs of networks and seeds, DDPM and DDIM, and two versions of JAX,
    the largest difference was 1.15 units / alpha. The bound is 4: rounding of two outputs, of a
    product and of a difference. A wrong key, label or padding differs by 0.2 to 2.
    """
    config = tiny.config()
    network, process = factory.network(config), factory.process(config.diffusion)
    params, (levels, _) = random_params(network), process.path(spec)
    bound = 4 * np.finfo(np.float32).eps / levels.alpha[0]
    assert bound < 2e-4
    count, found = 64, {}
    for devices, batch_size in cases:
        pipeline = Pipeline(
            network=network,
            process=process,
            sampler=factory.sampler(spec),
            codec=Pixels(),
            mesh=make_mesh(devices=jax.local_devices()[:devices]),
        )
        # One at a time, a few from both ends are enough.
        numbers = np.array([0, 1, 62, 63] if batch_size == 1 else range(count))
        cond = {"label": np.int32(numbers % 10)}
        grid = pipeline.sampler.grid(levels)
        given = (Params(params), grid, 5, numbers, batch_size, cond)
        found[devices, batch_size] = pipeline(*given)["x"]
    whole = found.pop((1, 64))
    assert np.std(whole, axis=0).min() > 1e-3
    for case, x in found.items():
        expected = whole[[0, 1, 62, 63]] if len(x) == 4 else whole
        np.testing.assert_allclose(x, expected, rtol=0, atol=bound, err_msg=str(case))


def test_a_corrupt_snapshot_is_refused(tmp_path):
    model = make_run(tmp_path / "run", tiny.config())
    for path in (tmp_path / "run" / "snapshots" / "10").rglob("*"):
        if path.is_file() and path.stat().st_size > 10_000:
            path.write_bytes(b"\0" * path.stat().st_size)
    with pytest.raises(UserError, match="10"):
        sample(tmp_path / "out", model, 4)
