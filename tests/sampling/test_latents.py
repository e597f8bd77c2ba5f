"""Encoding and sampling are inverse to each other, up to the error of their steps."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.data.images import to_float
from jaxdiff.diffusion import parameterization, schedules
from jaxdiff.diffusion.adm import Adm
from jaxdiff.errors import UserError
from jaxdiff.samplers.ddim import Ddim
from jaxdiff.sampling import latents, run_sampling
from jaxdiff.sampling.pipeline import Generator, Params
from tests import tiny
from tests.sampling.test_job import make_run
from tests.test_command_line import run

pytestmark = pytest.mark.usefixtures("alone")

STD = 0.25
PROCESS = Adm(
    schedule=schedules.cosine,
    prediction=parameterization.X0,
    variance=parameterization.FIXED_LARGE,
)


class Gaussian:
    """The exact network of pixels x0 ~ N(mean, STD^2), whose mean the label decides."""

    drop_rate = 0.0

    def embed(self, params, labels):
        return params[labels][:, None, None, None]

    def apply(self, params, x, time, mean):
        level = PROCESS.levels("")[::-1]
        table = jnp.stack([jnp.float32(level.alpha[1:]), jnp.float32(level.sigma[1:])])
        alpha, sigma = table[:, time.astype(int)][:, :, None, None, None]
        gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
        return mean + gain * (x - alpha * mean)


@pytest.mark.parametrize("batch_size", [4, 64])
def test_sampling_returns_what_was_encoded(one_device, batch_size):
    """To within .02 of a range of 2: the 250 first-order steps of both ways are off by .014.

    The latents themselves are quantiles: (x0 - mean) / STD.
    """
    random = np.random.RandomState(0)
    labels = np.arange(11) % 2
    means = jnp.array([-0.3, 0.4])
    images = np.clip(means[labels][:, None, None, None] + STD * random.randn(11, 4, 4, 1), -1, 1)
    images = np.round((np.asarray(images) + 1) * 127.5).astype(np.uint8)
    encoded = latents.encode(
        Gaussian(),
        PROCESS,
        means,
        images,
        labels,
        steps="250",
        clip=False,
        batch_size=batch_size,
        mesh=one_device,
    )
    assert (encoded.shape, encoded.dtype) == (images.shape, np.float32)
    mean = np.asarray(means)[labels][:, None, None, None]
    np.testing.assert_allclose(encoded, (to_float(images) - mean) / STD, atol=0.05)
    generate = Generator(
        network=Gaussian(),
        process=PROCESS,
        sampler=Ddim(clip=False),
        shape=(4, 4, 1),
        classes=tuple(labels.tolist()),
        mesh=one_device,
        start=encoded,
    )
    grid = generate.sampler.grid(PROCESS.levels("250"))
    numbers = [np.arange(11)[i : i + batch_size] for i in range(0, 11, batch_size)]
    decoded = np.concatenate([generate(Params(means), grid, 0, n, batch_size) for n in numbers])
    np.testing.assert_allclose(decoded, to_float(images), atol=0.02)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs with labels and without, and samples of both."""
    folder = tmp_path_factory.mktemp("latents")
    unlabelled = tiny.config(data__num_classes=0, diffusion__label_dropout=0.0)
    for name, config in {"labelled": tiny.config(), "unlabelled": unlabelled}.items():
        model = make_run(folder / name, config)
        run_sampling.run(
            run_sampling.Request(model=model, out=str(folder / f"{name}_samples"), num_samples=13)
        )
    return folder


def encode(folder, name, out, **fields):
    fields = {"images": str(folder / f"{name}_samples"), **fields}
    latents.run(latents.Request(model=str(folder / name), out=str(out), **fields))
    return str(out)


def sampled(out, **fields):
    run_sampling.run(run_sampling.Request(out=str(out), **fields))
    (file,) = out.glob("samples_*.npz")
    with np.load(file) as arrays:
        return dict(arrays)


def test_samples_keep_the_order_and_labels_of_what_was_encoded(folder, tmp_path):
    model = str(folder / "labelled")
    file = encode(folder, "labelled", tmp_path / "latents.npz")
    with np.load(file) as arrays:
        assert (arrays["arr_0"].shape, arrays["arr_0"].dtype) == ((13, 8, 8, 1), np.float32)
        assert arrays["arr_1"].dtype == np.int64
        np.testing.assert_array_equal(arrays["arr_1"], np.arange(13) % 10)
    whole = sampled(tmp_path / "whole", model=model, latents=file)
    parts = sampled(tmp_path / "parts", model=model, latents=file, batch_size=8, seed=3)
    np.testing.assert_array_equal(whole["arr_1"], np.arange(13) % 10)
    # DDIM with eta 0 is implied, so the seed means nothing; rounding may go to the next value.
    difference = np.abs(whole["arr_0"].astype(int) - parts["arr_0"])
    assert difference.max() <= 1
    drawn = sampled(tmp_path / "ddpm", model=model, latents=file, sampler="ddpm")
    assert (drawn["arr_0"] != whole["arr_0"]).any()


def test_a_model_without_labels_needs_none(folder, tmp_path):
    file = encode(folder, "unlabelled", tmp_path / "latents")  # the suffix is appended
    with np.load(f"{file}.npz") as arrays:
        assert set(arrays) == {"arr_0", "settings"}
    arrays = sampled(tmp_path / "out", model=str(folder / "unlabelled"), latents=f"{file}.npz")
    assert set(arrays) == {"arr_0"}


def test_latents_of_another_request_are_not_overwritten(folder, tmp_path):
    out = encode(folder, "labelled", tmp_path / "latents.npz")
    encode(folder, "labelled", out)
    with pytest.raises(UserError, match="another request, with another steps, num_steps"):
        encode(folder, "labelled", out, steps="5")


def test_images_that_cannot_be_encoded_are_refused(folder, tmp_path):
    def refused(words, name="labelled", out="out.npz", **fields):
        with pytest.raises(UserError, match=words):
            encode(folder, name, tmp_path / out, **fields)
        assert not (tmp_path / "out.npz").exists()

    def npz(name, **arrays):
        np.savez(tmp_path / name, **arrays)
        return str(tmp_path / name)

    images = np.zeros((2, 8, 8, 1), np.uint8)
    (tmp_path / "text.npz").write_text("no arrays")
    (tmp_path / "empty.npz").touch()
    refused("No such file", images=str(tmp_path / "nothing.npz"))
    refused("not a whole npz file", images=str(tmp_path / "text.npz"))
    refused("not a whole npz file", images=str(tmp_path / "empty.npz"))
    refused("holds 0 files samples", images=str(tmp_path))
    refused("holds no arr_0", images=npz("a.npz", images=images))
    refused("arr_0 float64", images=npz("b.npz", arr_0=images / 2))
    refused("holds no labels", images=npz("c.npz", arr_0=images))
    refused(r"\(8, 8, 3\)", images=npz("d.npz", arr_0=np.zeros((2, 8, 8, 3), np.uint8)))
    refused("from 3 to 10, but", images=npz("e.npz", arr_0=images, arr_1=np.array([3, 10])))
    refused("arr_1 int64 .3,.", images=npz("f.npz", arr_0=images, arr_1=np.arange(3)))
    refused("20 of the 20|20 timesteps and 21", steps="21")
    refused("--batch_size 0", batch_size=0)
    refused("cannot be written", out="text.npz/out.npz")
    refused("text.npz", out="text.npz")
    (tmp_path / "folder.npz").mkdir()
    refused("it is a folder", out="folder.npz")


def test_only_a_diffusion_model_encodes(tmp_path):
    classifier = make_run(
        tmp_path / "run", tiny.config(model__kind="classifier", diffusion__label_dropout=0.0)
    )
    with pytest.raises(UserError, match="is a classifier: --model wants a diffusion model"):
        latents.run(latents.Request(model=classifier, images="x", out="y"))


def test_latents_that_cannot_be_sampled_are_refused(folder, tmp_path):
    def refused(words, **fields):
        with pytest.raises(UserError, match=words):
            run_sampling.run(run_sampling.Request(out=str(tmp_path / "out"), **fields))
        assert not (tmp_path / "out").exists()

    model = str(folder / "labelled")
    file = encode(folder, "labelled", tmp_path / "latents.npz")
    unlabelled = f"{encode(folder, 'unlabelled', tmp_path / 'unlabelled')}.npz"
    np.savez(tmp_path / "large.npz", arr_0=np.zeros((2, 16, 16, 1), np.float32))
    refused("--classes 3 has no meaning with --latents", model=model, latents=file, classes="3")
    refused("--num_samples 13 has no", model=model, latents=file, num_samples=13)
    refused("holds no labels", model=model, latents=unlabelled)
    refused(r"\(16, 16, 1\)", model=model, latents=str(tmp_path / "large.npz"))
    refused("arr_0 uint8", model=model, latents=str(folder / "labelled_samples"))


def test_the_command_lines(folder, tmp_path):
    model = f"--model={folder / 'labelled'}"
    program = ["-m", "jaxdiff.sampling.encode", model, f"--images={folder / 'labelled_samples'}"]
    code, out, err = run(*program, f"--out={tmp_path / 'z.npz'}", "--steps=20", "--batch_size=5")
    assert code == 0, err
    assert "Encoding 13 images" in out
    assert "Wrote 13 latents" in out
    sample = ["sample.py", model, f"--latents={tmp_path / 'z.npz'}", f"--out={tmp_path / 'out'}"]
    code, out, err = run(*sample)
    assert code == 0, err
    assert "with ddim, 4 steps" in out
    code, _, err = run(*sample, "--classes=3")
    assert (code, err.count("\n")) == (1, 1)
    code, _, err = run(*program)
    assert (code, err) == (1, "encode.py: --out is missing: give a file such as latents.npz.\n")
