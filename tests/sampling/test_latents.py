"""Encoding and sampling are inverse to each other, up to the error of their steps."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.config import ADM, DDIM, PixelCodec
from jaxdiff.config.networks import PIXELS
from jaxdiff.diffusion.adm import AdmProcess
from jaxdiff.errors import UserError
from jaxdiff.models.codecs import Pixels
from jaxdiff.models.condition import Condition
from jaxdiff.samplers.ddim import DdimSampler
from jaxdiff.sampling import latents, pipeline
from tests import runs
from tests.programs import call, run

pytestmark = pytest.mark.usefixtures("alone")

STD = 0.25
PROCESS = AdmProcess(ADM(schedule="cosine", prediction="x0", variance="fixed_large", loss="simple"))


@dataclasses.dataclass(frozen=True)
class Settings:
    codec: PixelCodec = PIXELS
    conditions: tuple = ()


@dataclasses.dataclass(frozen=True)
class Shape:
    shape: tuple = (4, 4, 1)


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """The exact network of pixels x0 ~ N(mean, STD^2), whose mean the label decides."""

    config: Any = Settings()
    signature: Any = Shape()

    def embed(self, params, cond):
        return Condition(vector=params[cond["label"]][:, None])

    def apply(self, params, x, time, condition, dropout=None):
        mean = condition.vector[..., None, None]
        levels, _ = PROCESS.path(DDIM(steps=1000))
        levels = jax.tree.map(lambda a: a[::-1], levels)
        table = jnp.stack([jnp.float32(levels.alpha[1:]), jnp.float32(levels.sigma[1:])])
        alpha, sigma = table[:, time.astype(int)][:, :, None, None, None]
        gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
        return mean + gain * (x - alpha * mean)


@pytest.mark.parametrize("batch_size", [4, 64])
def test_sampling_returns_what_was_encoded(one_device, batch_size):
    """To within .02 of a range of 2: the 250 first-order steps of both ways are off by .014.

    The latents themselves are quantiles: (x0 - mean) / STD.
    """
    random = np.random.RandomState(0)
    cond = {"label": np.arange(11, dtype=np.int32) % 2}
    means = np.float32([-0.3, 0.4])
    mean = means[cond["label"]][:, None, None, None]
    images = np.clip(mean + STD * random.randn(11, 4, 4, 1), -1, 1)
    images = np.round((images + 1) * 127.5).astype(np.uint8)
    x0, levels = Pixels().encode(images), latents.levels_of(PROCESS, 250)
    encoded = latents.encode(
        Gaussian(),
        PROCESS,
        means,
        images,
        cond,
        levels=levels,
        clip=False,
        batch_size=batch_size,
        mesh=one_device,
    )
    assert (encoded.shape, encoded.dtype) == (images.shape, np.float32)
    np.testing.assert_allclose(encoded, (x0 - mean) / STD, atol=0.05)
    sampler = DdimSampler(DDIM(clip=False))
    generate = pipeline.Pipeline(
        network=Gaussian(), process=PROCESS, sampler=sampler, codec=Pixels(), mesh=one_device
    )
    params, grid = pipeline.Params(means), sampler.grid(levels)
    decoded = generate(params, grid, 0, np.arange(11), batch_size, cond, start=encoded)
    np.testing.assert_allclose(decoded["x"], x0, atol=0.02)


@pytest.fixture(scope="module")
def folder(alone, tmp_path_factory):
    """Runs with labels and without, and images."""
    folder = tmp_path_factory.mktemp("latents")
    for name, config in {"labelled": runs.tiny.config(), "unlabelled": runs.unlabelled()}.items():
        runs.make_run(folder / name, config, steps=(10,))
    images = np.random.RandomState(0).randint(0, 256, (13, 8, 8, 1), np.uint8)
    (folder / "samples").mkdir()
    np.savez(folder / "samples" / "samples_13x8x8x1.npz", arr_0=images, arr_1=np.arange(13) % 10)
    return folder


def encode(folder, name, out, images=None, **fields):
    images = str(folder / "samples") if images is None else images
    latents.run(str(folder / name), images, out, **fields)
    return str(out)


def test_samples_keep_the_order_and_labels_of_what_was_encoded(folder, tmp_path):
    from jaxdiff.sampling.command import main

    model = str(folder / "labelled")
    file = encode(folder, "labelled", tmp_path / "latents.npz")
    with np.load(file) as arrays:
        assert (arrays["arr_0"].shape, arrays["arr_0"].dtype) == ((13, 8, 8, 1), np.float32)
        np.testing.assert_array_equal(arrays["arr_1"], np.arange(13) % 10)

    def sampled(name, *flags):
        out = tmp_path / name
        assert not call(main, f"--model={model}", f"--latents={file}", f"--out={out}", *flags)
        with np.load(out / "samples_13x8x8x1.npz") as arrays:
            return dict(arrays)

    whole = sampled("whole")
    parts = sampled("parts", "--batch_size=8", "--seed=3")
    np.testing.assert_array_equal(whole["arr_1"], np.arange(13) % 10)
    # DDIM with eta 0 is implied, so the seed means nothing; rounding may go to the next value.
    difference = np.abs(whole["arr_0"].astype(int) - parts["arr_0"])
    assert difference.max() <= 1


def test_a_model_without_labels_needs_none_and_other_requests_are_refused(folder, tmp_path):
    file = encode(folder, "unlabelled", tmp_path / "latents")  # the suffix is appended
    with np.load(f"{file}.npz") as arrays:
        assert set(arrays) == {"arr_0", "settings"}
    encode(folder, "unlabelled", file)
    with pytest.raises(UserError, match="another steps"):
        encode(folder, "unlabelled", file, steps=5)


def test_what_cannot_be_encoded_is_refused(folder, tmp_path):
    def refused(words, name="labelled", out="out.npz", **fields):
        with pytest.raises(UserError, match=words):
            encode(folder, name, tmp_path / out, **fields)
        assert not (tmp_path / "out.npz").exists()

    def npz(name, **arrays):
        np.savez(tmp_path / name, **arrays)
        return str(tmp_path / name)

    images = np.zeros((2, 8, 8, 1), np.uint8)
    (tmp_path / "text.npz").write_text("no arrays")
    refused("nothing.npz", images=str(tmp_path / "nothing.npz"))
    refused("text.npz", images=str(tmp_path / "text.npz"))
    refused("arr_0", images=npz("a.npz", images=images))
    refused("arr_0 float64", images=npz("b.npz", arr_0=images / 2))
    refused("no label", images=npz("c.npz", arr_0=images))
    refused(r"\(2, 8, 8, 3\)", images=npz("d.npz", arr_0=np.zeros((2, 8, 8, 3), np.uint8)))
    refused("10", images=npz("e.npz", arr_0=images, arr_1=np.array([3, 10])))
    refused(r"\(3,\)", images=npz("f.npz", arr_0=images, arr_1=np.arange(3)))
    refused("21", steps=21)
    refused("text.npz", out="text.npz/out.npz")
    refused("text.npz", out="text.npz")
    runs.make_run(tmp_path / "classifier", runs.classifier(), steps=(5,))
    with pytest.raises(UserError, match="encodes images"):
        latents.run(str(tmp_path / "classifier"), "x", "y")


def test_the_command_line(folder, tmp_path):
    program = ["-m", "jaxdiff.sampling.encode", f"--model={folder / 'unlabelled'}"]
    images, out = f"--images={folder / 'samples'}", tmp_path / "latents.npz"
    code, printed, err = run(*program, images, f"--out={out}")
    assert (code, out.exists()) == (0, True), err
    assert "13 latents" in printed
    code, _, err = run(*program, images)
    assert (code, err.count("\n")) == (1, 1)
    assert "--out" in err
