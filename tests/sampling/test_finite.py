"""Samples that are not finite: of a network that knows nothing of the class 3."""

import json
import types

import jax
import numpy as np
import pytest
from PIL import Image

from jaxdiff import config as config_lib
from jaxdiff import factory
from jaxdiff.checkpoints.checkpointer import Store
from jaxdiff.checkpoints.run import Run
from jaxdiff.data.images import to_uint8
from jaxdiff.errors import UserError
from jaxdiff.evaluation import bits, digits
from jaxdiff.evaluation.search import NonFinite, Point, Search
from jaxdiff.parallel.mesh import make_mesh
from jaxdiff.sampling import latents, run_sampling
from jaxdiff.training.periodic_eval import Preview
from tests import tiny
from tests.models.test_unet import random_params

pytestmark = pytest.mark.usefixtures("alone")
BAD = [3, 13, 23]  # of 25 samples of ten classes in turn


@pytest.fixture(scope="module")
def config():
    return tiny.config(sampling__steps="2", diffusion__num_timesteps=4)


@pytest.fixture(scope="module")
def params(config):
    params = random_params(factory.network(config), seed=1)
    embedding = params["labels"]["embedding"]
    return {**params, "labels": {"embedding": embedding.at[3].set(np.nan)}}


@pytest.fixture(scope="module")
def model(config, params, tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("run") / "model")
    run.folder.mkdir()
    run.config_file.write_text(config_lib.to_json(config))
    store = Store(run.snapshots)
    store.save(5, {"ema": {"0.995": params}}, {"ema": ["0.995"]})
    store.close()
    return str(run.folder)


@pytest.fixture(scope="module")
def sampled(model, tmp_path_factory):
    """(folder, what was said) of 25 samples."""
    out = tmp_path_factory.mktemp("samples") / "out"
    with pytest.raises(UserError) as caught:
        run_sampling.run(run_sampling.Request(model=model, out=str(out), num_samples=25))
    return out, str(caught.value)


def test_they_are_counted_marked_and_named(sampled):
    out, said = sampled
    assert "3 of 25" in said
    assert "3, 13, 23" in said
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["non_finite"] == {"count": 3, "first": BAD}
    with np.load(out / "samples_25x8x8x1.npz") as arrays:
        images = arrays["arr_0"]
        np.testing.assert_array_equal(arrays["non_finite"], BAD)
    board = np.indices((8, 8)).sum(0) % 2 * 255
    for number, image in enumerate(images):
        assert (image[..., 0] == board).all() == (number in BAD)
    with Image.open(out / "grid.png") as picture:
        pixels = np.asarray(picture)
    magenta = (pixels == (255, 0, 255)).all(-1)
    tiles = magenta[:192].reshape(3, 64, 10, 52).sum((1, 3))  # ten columns of captioned tiles
    np.testing.assert_array_equal(np.flatnonzero(tiles), BAD)


def test_asking_again_says_so_again(model, sampled):
    out, said = sampled
    before = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    with pytest.raises(UserError) as caught:
        run_sampling.run(run_sampling.Request(model=model, out=str(out), num_samples=25))
    assert str(caught.value) == said
    assert {p.name: p.stat().st_mtime_ns for p in out.iterdir()} == before


def test_nothing_is_measured_on_them(model, sampled, tmp_path):
    out, _ = sampled
    with pytest.raises(UserError, match="3 of 25"):
        digits.read_samples(out)
    request = latents.Request(model=model, images=str(out), out=str(tmp_path / "x.npz"))
    with pytest.raises(UserError, match="3 of 25"):
        latents.run(request)
    with pytest.raises(NonFinite, match="2 of 20"):
        Search(model=model, num_samples=20, batch_size=20).images(Point(weight=1.0))


def test_encodings_and_likelihoods_of_that_kind_are_named(model, tmp_path):
    images = np.random.RandomState(0).randint(0, 256, (4, 8, 8, 1), np.uint8)
    np.savez(tmp_path / "images.npz", arr_0=images, arr_1=np.array([1, 3, 0, 3]))
    path = tmp_path / "latents.npz"
    with pytest.raises(UserError, match="2 of 4.*1, 3"):
        latents.run(
            latents.Request(model=model, images=str(tmp_path / "images.npz"), out=str(path))
        )
    with pytest.raises(UserError, match="2 of 4.*1, 3"):
        run_sampling.run(
            run_sampling.Request(model=model, out=str(tmp_path / "out"), latents=str(path))
        )
    assert not (tmp_path / "out").exists()
    labels = bits.open_split(tiny.config().data, "test").fetch(np.arange(12))["label"]
    (threes,) = np.nonzero(labels == 3)
    with pytest.raises(UserError, match=f"{len(threes)} of 12.*{threes[0]}"):
        bits.run(
            bits.Request(model=model, split="test", num_images=12, out=str(tmp_path / "bits.npz"))
        )


def test_a_preview_says_so_and_training_continues(config, params, tmp_path):
    class Writer:
        said, images = (), None

        def say(self, text):
            self.said = (*self.said, text)

        def write_images(self, number, images):
            self.images = images

    network, process = factory.network(config), factory.process(config)
    show, writer, run = (
        Preview(config, network, process, types.SimpleNamespace(empty=()), make_mesh()),
        Writer(),
        Run(tmp_path),
    )
    run.previews.mkdir()
    show(run, writer, 7, params)
    (line,) = writer.said
    assert "6 of 60" in line
    assert "3, 13, 23" in line
    assert (run.previews / "7.png").exists()
    assert (writer.images["samples"] == (255, 0, 255)).all(-1).any()
    show(run, writer, 8, jax.tree.map(np.nan_to_num, params))
    assert len(writer.said) == 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_no_byte_stands_for_what_is_not_finite(value):
    images = np.zeros((2, 4, 4, 1), np.float32)
    images[1, 2, 3] = value
    with pytest.raises(ValueError, match="finite"):
        to_uint8(images)
