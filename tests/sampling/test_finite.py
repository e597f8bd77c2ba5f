"""Samples that are not finite: of a network whose embedding of the class 3 is not."""

import json
import types

import jax
import numpy as np
import pytest
from etils import epath
from PIL import Image as PillowImage

import jaxdiff
from jaxdiff.checkpoints.run import Run
from jaxdiff.errors import UserError
from jaxdiff.parallel.mesh import make_mesh
from jaxdiff.sampling import command, latents
from jaxdiff.sampling.trained_model import load
from jaxdiff.training.previews import Preview
from jaxdiff.training.task import Task
from tests import tiny
from tests.runs import make_run, sample

pytestmark = pytest.mark.usefixtures("alone")
BAD = [3, 13, 23]  # of 25 samples of ten classes in turn


def without_3(params):
    params["labels"]["embedding"][3] = np.nan
    return params


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    config = tiny.config(sampling__steps=2, diffusion__num_timesteps=4)
    folder = tmp_path_factory.mktemp("run") / "model"
    return load(make_run(folder, config, steps=(5,), change=without_3))


@pytest.fixture(scope="module")
def sampled(model, tmp_path_factory):
    """(folder, what was said) of 25 samples."""
    out = tmp_path_factory.mktemp("samples") / "out"
    with pytest.raises(UserError) as caught:
        sample(out, model, 25, shard=10, batch_size=10)
    return out, str(caught.value)


def test_they_are_counted_marked_and_named(model, sampled):
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
    with PillowImage.open(out / "grid.png") as picture:
        pixels = np.asarray(picture)
    magenta = (pixels == (255, 0, 255)).all(-1)
    tiles = magenta[:192].reshape(3, 64, 10, 52).sum((1, 3))  # ten columns of captioned tiles
    np.testing.assert_array_equal(np.flatnonzero(tiles), BAD)
    np.testing.assert_array_equal(model.sample(25, batch_size=10).non_finite, BAD)


def test_asking_again_says_so_again(model, sampled):
    out, said = sampled
    before = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    with pytest.raises(UserError) as caught:
        sample(out, model, 25, shard=10, batch_size=10)
    assert str(caught.value) == said
    assert {p.name: p.stat().st_mtime_ns for p in out.iterdir()} == before


def test_nothing_is_made_of_them(model, sampled, tmp_path):
    out, _ = sampled
    np.testing.assert_array_equal(jaxdiff.load_samples(out).non_finite, BAD)
    with pytest.raises(UserError, match="3 of 25"):
        latents.run(str(model), str(out), str(tmp_path / "x.npz"))
    args = command.parser().parse_args(["--cond", str(out)])
    with pytest.raises(UserError, match="3 of 25"):
        command.conditions_of(args, model)


def test_encodings_of_that_kind_are_named(model, tmp_path):
    images = np.random.RandomState(0).randint(0, 256, (4, 8, 8, 1)).astype(np.uint8)
    np.savez(tmp_path / "images.npz", arr_0=images, arr_1=np.array([1, 3, 0, 3]))
    path = tmp_path / "latents.npz"
    with pytest.raises(UserError, match="2 of 4.*1, 3"):
        latents.run(str(model), str(tmp_path / "images.npz"), str(path))
    args = command.parser().parse_args(["--latents", str(path)])
    cond, start = command.conditions_of(args, model)
    with pytest.raises(UserError, match="start"):
        model.job(4, cond=cond, start=start)


def test_a_preview_says_so_and_training_continues(model, tmp_path):
    class Writer:
        said, images = (), None

        def say(self, text):
            self.said = (*self.said, text)

        def write_images(self, number, images):
            self.images = images

    source = types.SimpleNamespace(empty=(), class_names=())
    show, writer = Preview(Task.of(model.config), source, make_mesh()), Writer()
    run = Run(epath.Path(tmp_path))
    show(run, writer, 7, model.params)
    (line,) = writer.said
    assert "6 of 60" in line
    assert "3, 13, 23" in line
    assert (run.previews / "7.png").exists()
    assert (writer.images["samples"] == (255, 0, 255)).all(-1).any()
    show(run, writer, 8, jax.tree.map(np.nan_to_num, model.params))
    assert len(writer.said) == 1
