import hashlib
import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from jaxdiff import config as config_lib
from jaxdiff import factory, results
from jaxdiff.checkpoints.checkpointer import Store
from jaxdiff.checkpoints.run import Run
from jaxdiff.errors import UserError
from jaxdiff.parallel.mesh import make_mesh
from jaxdiff.sampling import run_sampling
from jaxdiff.sampling.pipeline import Generator, Params
from tests import history, tiny
from tests.models.test_unet import random_params


def make_run(folder, config, seed=0):
    """A run with one snapshot of arbitrary parameters, and an older one of others."""
    run = Run(folder)
    run.folder.mkdir()
    run.config_file.write_text(config_lib.to_json(config))
    store = Store(run.snapshots)
    for step in (5, 10):
        params = random_params(factory.network(config), seed=seed + step)
        store.save(step, {"ema": {"0.995": params}}, {"ema": ["0.995"]})
    store.close()
    return str(folder)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "labelled", tiny.config())


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory):
    config = tiny.config(data__num_classes=0, diffusion__label_dropout=0.0)
    return make_run(tmp_path_factory.mktemp("runs") / "unlabelled", config)


def sample(out, **fields):
    run_sampling.run(run_sampling.Request(out=str(out), **fields))
    (file,) = out.glob("samples_*.npz")
    with np.load(file) as arrays:
        return dict(arrays), json.loads((out / "manifest.json").read_text())


def test_files_and_manifest(labelled, tmp_path):
    arrays, manifest = sample(tmp_path, model=labelled, num_samples=13, classes="3,7-8", seed=4)
    assert {p.name for p in tmp_path.iterdir()} == {
        "samples_13x8x8x1.npz",
        "grid.png",
        "settings.json",
        "manifest.json",
    }
    assert (arrays["arr_0"].shape, arrays["arr_0"].dtype) == ((13, 8, 8, 1), np.uint8)
    assert arrays["arr_1"].dtype == np.int64
    np.testing.assert_array_equal(arrays["arr_1"], [3, 7, 8] * 4 + [3])
    assert manifest["model"] == f"{labelled}@10"
    assert manifest["sampling"]["num_steps"] == 4
    assert manifest["network_evaluations_per_sample"] == {"model": 4}
    assert (manifest["seed"], manifest["classes"]) == (4, [3, 7, 8])
    for name, checksum in manifest["sha256"].items():
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == checksum
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.size == (3 * 52, 5 * 64)  # a column a class, captions below


def test_a_model_without_labels(unlabelled, tmp_path):
    arrays, manifest = sample(tmp_path, model=unlabelled, num_samples=4)
    assert set(arrays) == {"arr_0"}
    assert manifest["classes"] == []


def test_steps_samplers_and_models_make_a_difference(labelled, tmp_path):
    requests = {
        "base": {},
        "older": {"model": f"{labelled}@5"},
        "ddim": {"sampler": "ddim"},
        "eta": {"sampler": "ddim", "eta": 1.0},
        "steps": {"steps": "ddim10"},
        "sections": {"steps": "3,2"},
        "unclipped": {"clip": False},
        "seed": {"seed": 1},
    }
    images = {}
    for name, fields in requests.items():
        fields = {"model": labelled, "num_samples": 4, **fields}
        arrays, manifest = sample(tmp_path / name, **fields)
        images[name] = arrays["arr_0"].tobytes()
        if name == "sections":
            assert manifest["sampling"]["num_steps"] == 5
    assert len(set(images.values())) == len(images)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_a_sample_is_the_same_in_any_batch_on_any_devices(sampler):
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
    config = tiny.config(sampling__sampler=sampler, sampling__eta=0.5 if sampler == "ddim" else 0.0)
    network, process = factory.network(config), factory.process(config)
    params, levels = random_params(network), process.levels("4")
    bound = 4 * np.finfo(np.float32).eps / levels.alpha[0]
    assert bound < 2e-4
    count, found = 64, {}
    for devices, batch_size in [(1, 1), (1, 7), (1, 64), (8, 7), (8, 64)]:
        generate = Generator(
            network=network,
            process=process,
            sampler=factory.sampler(config.sampling),
            shape=(8, 8, 1),
            classes=tuple(range(10)),
            mesh=make_mesh(devices=jax.devices()[:devices]),
        )
        grid = generate.sampler.grid(levels)
        # One at a time, a few from both ends are enough.
        wanted = [0, 1, 62, 63] if batch_size == 1 else range(count)
        chunks = [wanted[i : i + batch_size] for i in range(0, len(wanted), batch_size)]
        x = np.concatenate(
            [generate(Params(params), grid, 5, np.array(c), batch_size) for c in chunks]
        )
        found[devices, batch_size] = x
    whole = found.pop((1, 64))
    assert np.std(whole, axis=0).min() > 1e-3
    for case, x in found.items():
        expected = whole[[0, 1, 62, 63]] if len(x) == 4 else whole
        np.testing.assert_allclose(x, expected, rtol=0, atol=bound, err_msg=str(case))


def test_the_same_request_again_gives_the_same_files(labelled, tmp_path, monkeypatch):
    fields = {"model": labelled, "num_samples": 4}
    arrays, first = sample(tmp_path, **fields)
    (tmp_path / "manifest.json").unlink()  # as where the job was killed
    again, second = sample(tmp_path, **fields)
    assert first == second
    np.testing.assert_array_equal(again["arr_0"], arrays["arr_0"])
    monkeypatch.setattr(run_sampling.Job, "samples", None)  # a finished job samples nothing
    _, third = sample(tmp_path, **fields)
    assert first == third
    (tmp_path / "grid.png").write_bytes(b"theirs")
    with pytest.raises(UserError, match="grid.png"):
        sample(tmp_path, **fields)
    assert (tmp_path / "grid.png").read_bytes() == b"theirs"
    manifest = (tmp_path / "manifest.json").read_bytes()
    (tmp_path / "manifest.json").write_bytes(manifest.replace(b'"seed": 0', b'"seed": 1'))
    with pytest.raises(UserError, match="manifest.json"):
        sample(tmp_path, **fields)


def test_a_folder_that_is_being_sampled_to_is_refused(labelled, tmp_path):
    out = tmp_path / "out"
    prepared = run_sampling.prepare(
        run_sampling.Request(model=labelled, out=str(out), num_samples=4)
    )
    with results.claimed_folder(out, prepared.settings, run_sampling.SETTINGS):
        for fields in ({}, {"seed": 1}):
            with pytest.raises(UserError, match="in use by process"):
                run_sampling.run(
                    run_sampling.Request(model=labelled, out=str(out), num_samples=4, **fields)
                )
    with pytest.raises(UserError, match="config.json"):
        run_sampling.run(run_sampling.Request(model=labelled, out=labelled))


def test_a_run_that_was_made_again_is_another(tmp_path):
    model = make_run(tmp_path / "run", tiny.config())
    sample(tmp_path / "out", model=model, num_samples=2)
    shutil.rmtree(model)
    make_run(tmp_path / "run", tiny.config(), seed=7)
    with pytest.raises(UserError, match="networks"):
        sample(tmp_path / "out", model=model, num_samples=2)


def test_samples_of_another_request_are_not_overwritten(labelled, tmp_path):
    _, before = sample(tmp_path, model=labelled, num_samples=4)
    with pytest.raises(UserError, match="with another seed"):
        sample(tmp_path, model=labelled, num_samples=4, seed=1)
    assert json.loads((tmp_path / "manifest.json").read_text()) == before


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"classes": "3,10"}, "no class 10: its classes are 0 to 9"),
        ({"classes": "one"}, "cannot be read"),
        ({"classes": "5-3"}, "names no class"),
        ({"num_samples": 0}, "must be positive"),
        ({"seed": -1}, "--seed -1"),
        ({"steps": "21"}, "20 of the|20 timesteps and 21"),
        ({"steps": "ddim19"}, "no whole stride"),
        ({"eta": 0.5}, "eta 0.5 has no meaning for the sampler ddpm"),
        ({"sampler": "ddim", "eta": 2.0}, "--eta is 2.0"),
    ],
)
def test_requests_that_cannot_be_met_are_refused(labelled, tmp_path, fields, words):
    with pytest.raises(UserError, match=words):
        run_sampling.run(run_sampling.Request(model=labelled, out=str(tmp_path / "out"), **fields))
    assert not (tmp_path / "out").exists()


def test_classes_of_a_model_without_labels_are_refused(unlabelled, tmp_path):
    with pytest.raises(UserError, match="trained without labels"):
        run_sampling.run(run_sampling.Request(model=unlabelled, out=str(tmp_path), classes="1"))


def test_an_unwritable_folder_is_refused(labelled, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        run_sampling.run(run_sampling.Request(model=labelled, out=str(tmp_path / "file" / "out")))


def test_a_damaged_snapshot_is_refused(tmp_path):
    model = make_run(tmp_path / "run", tiny.config())
    for path in (tmp_path / "run" / "snapshots" / "10").rglob("*"):
        if path.is_file() and path.stat().st_size > 10_000:
            path.write_bytes(b"\0" * path.stat().st_size)
    with pytest.raises(UserError, match="10 is damaged.*use another step"):
        run_sampling.run(run_sampling.Request(model=model, out=str(tmp_path / "out")))


def test_every_sampler_serves_a_model_of_edm(tmp_path):
    model, images = history.make(tmp_path / "run"), {}
    for sampler, evaluations in (("ddpm", 3), ("ddim", 3), ("heun", 5), ("dpmpp", 3)):
        out = tmp_path / sampler
        arrays, manifest = sample(out, model=model, num_samples=4, sampler=sampler, steps="3")
        images[sampler] = arrays["arr_0"]
        assert list(manifest["network_evaluations_per_sample"].values()) == [evaluations]
    different = {image.tobytes() for image in images.values()}
    assert len(different) == 4


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory):
    """Runs of classifiers: one of the models' process, and others that differ."""
    folder = tmp_path_factory.mktemp("classifiers")

    def make(name, **fields):
        fields = {"model__kind": "classifier", "diffusion__label_dropout": 0.0, **fields}
        return make_run(folder / name, tiny.config(**fields))

    return {
        "fits": make("fits"),
        "schedule": make("schedule", diffusion__schedule="linear", diffusion__num_timesteps=30),
        "size": make("size", data__image_size=16),
    }


def test_a_classifier_guides_and_scale_zero_does_not(labelled, unlabelled, classifiers, tmp_path):
    common = {"num_samples": 4, "classes": "3"}
    plain, _ = sample(tmp_path / "plain", model=labelled, **common)
    guide = {"classifier": classifiers["fits"]}
    off, manifest = sample(tmp_path / "0", model=labelled, classifier_scale=0.0, **guide, **common)
    np.testing.assert_array_equal(off["arr_0"], plain["arr_0"])
    assert manifest["network_evaluations_per_sample"] == {"model": 4}
    for sampler in ("ddpm", "ddim"):
        fields = {"sampler": sampler, **guide, **common}
        on, manifest = sample(tmp_path / sampler, model=unlabelled, classifier_scale=1e4, **fields)
        other, _ = sample(
            tmp_path / f"{sampler}-0", model=unlabelled, classifier_scale=0.0, **fields
        )
        assert (on["arr_0"] != other["arr_0"]).any()
        np.testing.assert_array_equal(on["arr_1"], 3)
        assert manifest["guidance"]["classifier"] == f"{classifiers['fits']}@10"
        assert manifest["network_evaluations_per_sample"] == {"model": 4, "classifier": 4}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "schedule",
            r"differs from the model in diffusion.schedule \(linear, the model's is cosine",
        ),
        ("size", r"data.image_size \(16, the model's is 8\)"),
        (None, "is a diffusion model: --classifier wants a classifier"),
    ],
)
def test_a_classifier_that_does_not_fit_is_refused(labelled, classifiers, tmp_path, name, words):
    classifier = classifiers[name] if name else labelled
    with pytest.raises(UserError, match=words):
        run_sampling.run(
            run_sampling.Request(model=labelled, out=str(tmp_path / "out"), classifier=classifier)
        )


def test_a_classifier_is_not_sampled(classifiers, tmp_path):
    with pytest.raises(UserError, match="is a classifier: --model wants a diffusion model"):
        run_sampling.run(run_sampling.Request(model=classifiers["fits"], out=str(tmp_path / "out")))


def test_a_model_of_super_resolution_enlarges_a_file_with_its_labels(labelled, tmp_path):
    model = make_run(tmp_path / "up", tiny.config(data__low_res_size=4))
    random = np.random.RandomState(0)
    small = {"arr_0": random.randint(0, 256, (3, 4, 4, 1), np.uint8), "arr_1": np.array([7, 0, 7])}
    np.savez(tmp_path / "small.npz", **small)
    fields = {"model": model, "low_res": str(tmp_path / "small.npz")}
    large, manifest = sample(tmp_path / "out", **fields)
    assert large["arr_0"].shape == (3, 8, 8, 1)
    np.testing.assert_array_equal(large["arr_1"], [7, 0, 7])
    assert manifest["low_res"]
    # The same noise and labels, another small image: the first sample differs, no other.
    small["arr_0"][0] = 255 - small["arr_0"][0]
    np.savez(tmp_path / "other.npz", **small)
    other, _ = sample(tmp_path / "other", model=model, low_res=str(tmp_path / "other.npz"))
    assert (other["arr_0"][0] != large["arr_0"][0]).any()
    np.testing.assert_array_equal(other["arr_0"][1:], large["arr_0"][1:])
    out = str(tmp_path / "refused")
    for request, words in [
        (run_sampling.Request(model=model, out=out), "give a file of them with --low_res"),
        (run_sampling.Request(**{**fields, "model": labelled}, out=out), "does not enlarge images"),
        (
            run_sampling.Request(**fields, out=out, classes="3"),
            "--classes 3 has no meaning with --low_res",
        ),
    ]:
        with pytest.raises(UserError, match=words):
            run_sampling.run(request)
