"""Jobs: the folder of shards that becomes results, and what a finished or killed one leaves."""

import dataclasses
import hashlib
import json
import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from types import SimpleNamespace
from unittest.mock import Mock

import jax
import numpy as np
import pytest
from etils import epath
from PIL import Image as PillowImage

import jaxdiff
from jaxdiff import arrays, claims, factory, files, locks, stopping
from jaxdiff.config import DDIM, DDPM
from jaxdiff.errors import UserError
from jaxdiff.models.codecs import Pixels
from jaxdiff.parallel.mesh import make_mesh
from jaxdiff.sampling import merge, run_sampling
from jaxdiff.sampling.job import Job
from jaxdiff.sampling.pipeline import Params, Pipeline
from jaxdiff.sampling.shards import Place, Progress, Shards
from jaxdiff.sampling.trained_model import load
from tests import disk, tiny
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
    whole = Job.sample

    def fails_at(number):
        def run(job, params, numbers, *args, **kwargs):
            calls.append(int(numbers[0]))
            if len(calls) == number:
                raise RuntimeError("killed")
            return whole(job, params, numbers, *args, **kwargs)

        return run

    out = epath.Path(tmp_path / "out")
    monkeypatch.setattr(Job, "sample", fails_at(4))
    with pytest.raises(RuntimeError):
        run_sampling.run(job, out, 4)
    assert sorted(p.name for p in (out / "shards").iterdir()) == [
        f"{n:05d}-of-00004.npz" for n in range(3)
    ]
    with pytest.raises(UserError, match="seed"):
        run_sampling.run(model.job(13, cond=THREES, seed=5, batch_size=4), out, 4)
    monkeypatch.setattr(Job, "sample", fails_at(0))
    run_sampling.run(job, out, 4)
    assert calls == [0, 4, 8, 12, 12]
    with np.load(out / "samples_13x8x8x1.npz") as arrays:
        np.testing.assert_array_equal(arrays["arr_0"], finished[1]["arr_0"])
    assert not (out / "shards").exists()


def test_processes_of_one_request_share_its_shards_and_another_is_refused(
    model, finished, tmp_path, monkeypatch
):
    """Threads in place of processes, with locks of their own."""
    out, sampled, sample, together = epath.Path(tmp_path / "out"), [], Job.sample, Barrier(2)

    def noted(job, params, numbers, *args, **kwargs):
        if len(sampled) < 2:
            together.wait(60)  # both hold a shard
            with pytest.raises(UserError, match="seed"):
                run_sampling.run(model.job(13, cond=THREES, seed=5, batch_size=4), out, 4)
        sampled.append(int(numbers[0]))
        return sample(job, params, numbers, *args, **kwargs)

    monkeypatch.setattr(Job, "sample", noted)
    job = model.job(13, cond=THREES, seed=4, batch_size=4)
    with ThreadPoolExecutor(2) as threads:
        places = [Place(index, 2) for index in range(2)]
        list(threads.map(lambda place: run_sampling.run(job, out, 4, place), places))
    assert sorted(sampled) == [0, 4, 8, 12]
    name = "samples_13x8x8x1.npz"
    assert (out / name).read_bytes() == (finished[0] / name).read_bytes()
    assert files.names(out) == ["grid.png", "manifest.json", name, "settings.json"]


def test_fixed_parts_need_nobody_and_the_last_one_merges(model, finished, tmp_path, capsys):
    job, out = model.job(13, cond=THREES, seed=4, batch_size=4), epath.Path(tmp_path / "out")
    for index in (2, 0):
        run_sampling.run(job, out, 4, Place(index, 3, is_fixed=True))
    assert files.names(out / "shards") == [f"0000{n}-of-00004.npz" for n in (0, 2, 3)]
    assert "Left to other parts: 1 of 4 shards" in capsys.readouterr().out
    run_sampling.run(job, out, None, Place(1, 3, is_fixed=True))
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["sha256"] == finished[2]["sha256"]


@pytest.mark.parametrize("content", [b"", b"half", "short"])
def test_a_corrupt_shard_is_sampled_again(model, finished, tmp_path, capsys, content):
    job, out = model.job(13, cond=THREES, seed=4, batch_size=4), epath.Path(tmp_path / "out")
    run_sampling.run(job, out, 4, Place(0, 2, is_fixed=True))
    path = out / "shards" / "00002-of-00004.npz"
    if content == "short":
        arrays.save_npz(path, {"images": np.zeros((3, 8, 8, 1), np.uint8), "non_finite": []})
    else:
        path.write_bytes(content)
    run_sampling.run(job, out, None, Place(1, 2, is_fixed=True))
    said = capsys.readouterr().out
    assert "to be sampled again" in said
    assert "Left to other parts: 1 of 4 shards" in said
    run_sampling.run(job, out)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["sha256"] == finished[2]["sha256"]


def test_what_fails_before_there_is_a_shard_takes_the_settings_back(model, tmp_path, monkeypatch):
    job, out = model.job(13, batch_size=4), epath.Path(tmp_path / "new" / "out")
    with disk.small_files(20_000), pytest.raises(files.WriteError, match="shards"):
        run_sampling.run(model.job(400, batch_size=4), out)
    assert not out.exists()
    monkeypatch.setattr(Job, "sample", Mock(side_effect=UserError("no")))
    with locks.own_lock(out.parent / ".lock", "x"), pytest.raises(UserError, match="no"):
        run_sampling.run(job, out)
    assert not out.exists()
    # Unless another process is in the folder; what a killed one has left does not count.
    files.write_text(out / ".shard-00000.lock", "{}")
    with locks.own_lock(out / ".shard-00001.lock", "x"), pytest.raises(UserError, match="no"):
        run_sampling.run(job, out, 4)
    assert files.names(out) == ["settings.json"]


def test_a_folder_that_was_removed_and_is_another_requests_is_left_to_it(
    model, tmp_path, monkeypatch
):
    out, whole = epath.Path(tmp_path / "out"), Job.sample

    def sample(*args, **kwargs):
        files.remove_tree(out)
        files.write_json(out / "settings.json", {**model.job(13, seed=5).settings, "shard": 4})
        return whole(*args, **kwargs)

    monkeypatch.setattr(Job, "sample", sample)
    with pytest.raises(UserError, match="with another seed"):
        run_sampling.run(model.job(13, seed=4, batch_size=4), out, 4)
    assert files.names(out) == ["settings.json"]
    assert files.read_json(out / "settings.json")["seed"] == 5


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, None)])
def test_a_signal_ends_a_job_after_the_batch_in_flight(
    model, tmp_path, monkeypatch, number, status, capfd
):
    job, out, done = model.job(20, batch_size=4), epath.Path(tmp_path / "out"), []
    update = Progress.update

    def noted(bar, count):
        done.append(count)
        if len(done) == 3:
            os.kill(os.getpid(), number)
        update(bar, count)

    monkeypatch.setattr(Progress, "update", noted)
    before = signal.getsignal(signal.SIGTERM)
    stopping.listen()
    try:
        with pytest.raises(SystemExit if status else KeyboardInterrupt) as caught:
            run_sampling.run(job, out, 8)
        assert stopping.is_listening()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert status is None or caught.value.code == status
    assert done == [4] * 3
    assert files.names(out) == ["settings.json", "shards"]
    assert files.names(out / "shards") == ["00000-of-00003.npz"]
    assert "Ending after the batch in flight" in capfd.readouterr().err


def test_a_job_needs_devices_of_its_own(model, tmp_path):
    mesh = SimpleNamespace(is_multi_process=True)
    job = dataclasses.replace(model.job(4), pipeline=SimpleNamespace(mesh=mesh))
    with pytest.raises(UserError, match="local_devices"):
        run_sampling.run(job, epath.Path(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_samples_take_the_room_that_there_is(model, finished, tmp_path, monkeypatch):
    job, out = model.job(13, cond=THREES, seed=4, batch_size=4), epath.Path(tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(merge.files, "room", lambda path: (13 * 64 - 1, path.parent))
        with pytest.raises(UserError, match="make room"):
            run_sampling.run(job, out, 4)
    assert len(files.names(out / "shards")) == 4
    monkeypatch.setattr(Job, "sample", None)
    run_sampling.run(job, out)
    name = "samples_13x8x8x1.npz"
    assert (out / name).read_bytes() == (finished[0] / name).read_bytes()


def test_a_finished_job_does_nothing_and_what_was_changed_is_refused(
    model, finished, tmp_path, monkeypatch
):
    out, fields = tmp_path / "out", {"cond": THREES, "seed": 4, "shard": 4, "batch_size": 4}
    shutil.copytree(finished[0], out)
    (out / "shards").mkdir()  # of a program that was killed at the very end
    monkeypatch.setattr(Job, "sample", None)
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


def test_shards_that_another_process_has_just_merged_are_not_missing(
    finished, tmp_path, monkeypatch, capsys
):
    shards, settings = (
        Shards(epath.Path(tmp_path), 13, 4),
        files.read_json(epath.Path(finished[0]) / "settings.json"),
    )

    def there(_):
        shutil.copy(finished[0] / "manifest.json", tmp_path)
        return []

    monkeypatch.setattr(run_sampling, "_sample", lambda *_: [])
    monkeypatch.setattr(Shards, "there", there)
    found = run_sampling._work(None, shards, settings, Place(0, 2))
    assert found["sha256"] == finished[2]["sha256"]
    assert capsys.readouterr().out == ""


def test_folders_that_are_not_ours_are_refused(folder, model, tmp_path):
    out = epath.Path(tmp_path / "out")
    job = model.job(4)
    claims.claim(out, {**job.settings, "shard": 7}, "settings.json")
    with pytest.raises(UserError, match="shard"):
        run_sampling.run(job, out, 8)
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
    eight = jax.devices()[0].client.devices()  # of which the fixture `alone` shows one
    for devices, batch_size in cases:
        pipeline = Pipeline(
            network=network,
            process=process,
            sampler=factory.sampler(spec),
            codec=Pixels(),
            mesh=make_mesh(devices=eight[:devices]),
        )
        assert pipeline.mesh.size == devices
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
