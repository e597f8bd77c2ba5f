import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import factory
from jaxdiff.checkpoints.run import resolve
from jaxdiff.data.source import open_source
from jaxdiff.diffusion.denoiser import Condition
from jaxdiff.diffusion.likelihood import bits_per_dimension
from jaxdiff.diffusion.randomness import Purpose, derived, normal, sample_keys
from jaxdiff.errors import UserError
from jaxdiff.evaluation import bits
from jaxdiff.parallel.mesh import make_mesh
from jaxdiff.sampling.trained_model import applied
from tests import tiny
from tests.models.test_unet import random_params
from tests.sampling.test_job import make_run
from tests.test_command_line import run

TERMS = {"vb": 5, "mse": 5, "xstart_mse": 5, "prior_bpd": None, "total_bpd": None}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    # Mirroring is for training: it must not reach what is measured.
    return make_run(tmp_path_factory.mktemp("runs") / "run", tiny.config(data__augment="flip"))


@pytest.fixture(scope="module")
def source():
    return open_source("digits", "test", image_size=8, channels=1, num_classes=10)


def load(file):
    with np.load(file) as arrays:
        return dict(arrays)


def direct(numbers, source, steps, seed):
    """The bound of these images, one at a time and without what the job is made of."""
    config = tiny.config()
    network, process = factory.network(config), factory.process(config)
    params, levels = random_params(network, seed=10), process.levels(steps)

    @jax.jit
    def of_one(image, label, number):
        key = sample_keys(seed, number[None])
        condition = Condition(network.embed(params, label[None]))
        denoiser = process.denoiser(applied(network, params))
        return bits_per_dimension(
            lambda x, level: denoiser(x, level, condition),
            levels,
            jnp.float32(image)[None] / 127.5 - 1,
            lambda i: normal(derived(key, Purpose.STEP, i), (8, 8, 1)),
        )

    rows = [source.fetch([n]) for n in numbers]
    each = [of_one(r["image"][0], r["label"][0], n) for r, n in zip(rows, numbers, strict=True)]
    return jax.tree.map(lambda *parts: np.concatenate(parts), *each)


def test_the_job_saves_the_bound_of_every_image(model, source, capsys):
    bits.run(bits.Request(model=model, split="test", steps="5", num_images=13, seed=2))
    out = resolve(model).run.folder / "likelihood_test_10.npz"
    saved = load(out)
    settings = json.loads(saved.pop("settings").item())
    assert settings["model"] == f"{model}@10"
    assert (settings["split"], settings["num_images"], settings["num_steps"]) == ("test", 13, 5)
    levels = factory.process(tiny.config()).levels("5")
    np.testing.assert_array_equal(saved.pop("noise_level"), levels.ratio[:-1])
    assert {name: value.shape for name, value in saved.items()} == {
        name: (13,) if steps is None else (13, steps) for name, steps in TERMS.items()
    }
    chosen = np.array([0, 4, 12])
    expected = direct(chosen, source, "5", seed=2)
    for name, value in saved.items():
        np.testing.assert_allclose(value[chosen], expected[name], rtol=1e-4, err_msg=name)
    assert len(np.unique(saved["mse"])) == 13 * 5  # noise of its own for each image and step
    total = saved["total_bpd"]
    error = total.std(ddof=1) / np.sqrt(13)
    printed = f"{total.mean():.4f} bits per dimension, standard error {error:.4f}; wrote {out}"
    assert printed in capsys.readouterr().out


def test_batches_and_devices_do_not_matter(source):
    config = tiny.config()
    network, process = factory.network(config), factory.process(config)
    params = random_params(network)

    def measure(batch_size, devices):
        mesh = make_mesh(devices=jax.devices()[:devices])
        sizes = {"batch_size": batch_size, "mesh": mesh, "steps": "5"}
        return bits.measure(network, process, params, source.fetch, 11, **sizes)

    whole = measure(11, 1)
    assert whole["total_bpd"].std() > 1e-3
    for case in [(3, 1), (5, 1), (4, 8)]:
        # Batches of other sizes add in another order.
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4), measure(*case), whole
        )


def test_a_model_without_labels_is_measured(tmp_path):
    config = tiny.config(data__num_classes=0, diffusion__label_dropout=0.0)
    model, out = make_run(tmp_path / "run", config), tmp_path / "new" / "terms.npz"
    bits.run(bits.Request(model=model, split="train", steps="5", num_images=1, out=str(out)))
    assert load(out)["vb"].shape == (1, 5)


def test_terms_of_another_request_are_not_overwritten(model, tmp_path):
    fields = {"model": model, "split": "test", "num_images": 2, "out": str(tmp_path / "x.npz")}
    bits.run(bits.Request(steps="5", **fields))
    before = load(tmp_path / "x.npz")
    bits.run(bits.Request(steps="5", **fields))
    with pytest.raises(UserError, match="another request, with another seed: choose"):
        bits.run(bits.Request(steps="5", seed=1, **fields))
    after = load(tmp_path / "x.npz")
    jax.tree.map(np.testing.assert_array_equal, before, after)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"split": "validation"}, "no split validation: it has test, train|train, test"),
        ({"steps": "21"}, "20 timesteps and 21|20 of the"),
        ({"steps": "many"}, '"many" cannot be read'),
        ({"batch_size": 0}, "--batch_size 0"),
        ({"seed": -1}, "--seed -1"),
        ({"num_images": 298}, "between 1 and 297"),
        ({"num_images": 0}, "between 1 and 297"),
        ({"model": "nowhere"}, "nowhere is not the folder of a run"),
        ({"out": "/dev/null/terms.npz"}, "/dev/null/terms.npz cannot be written"),
    ],
)
def test_requests_that_cannot_be_met_are_refused(model, fields, words):
    with pytest.raises(UserError, match=words):
        bits.run(bits.Request(**{"model": model, "split": "test", **fields}))


def test_only_a_diffusion_model_has_a_likelihood(tmp_path):
    classifier = make_run(
        tmp_path / "run", tiny.config(model__kind="classifier", diffusion__label_dropout=0.0)
    )
    with pytest.raises(UserError, match="is a classifier: --model wants a diffusion model"):
        bits.run(bits.Request(model=classifier, split="test"))


def test_the_command_line(model, tmp_path):
    program = ["-m", "jaxdiff.evaluation.likelihood", f"--model={model}"]
    out = tmp_path / "all.npz"
    code, printed, err = run(*program, "--split=test", "--steps=ddim5", f"--out={out}")
    assert code == 0, err
    assert "on 297 images, 5 steps each" in printed
    assert "bits per dimension, standard error 0." in printed
    assert load(out)["total_bpd"].shape == (297,)
    code, _, err = run(*program)
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith("likelihood.py: --split is missing")
