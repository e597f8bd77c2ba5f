import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import factory
from jaxdiff.checkpoints.run import resolve
from jaxdiff.config import DDPM
from jaxdiff.data.source import open_split
from jaxdiff.diffusion.randomness import Purpose, derived, normal, sample_keys
from jaxdiff.diffusion.variational_bound import bits_per_dimension
from jaxdiff.errors import UserError
from jaxdiff.evaluation import bits
from jaxdiff.parallel.mesh import make_mesh
from tests import runs, tiny
from tests.programs import run

TERMS = {"vb": 5, "mse": 5, "xstart_mse": 5, "prior_bpd": None, "total_bpd": None}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    # Mirroring is for training: it must not reach what is measured.
    config = tiny.config(data__augment="flip")
    return runs.make_run(tmp_path_factory.mktemp("runs") / "run", config)


def load(file):
    with np.load(file) as arrays:
        return dict(arrays)


def direct(numbers, steps, seed):
    """The bound of these images, one at a time and without what the job is made of."""
    config = tiny.config()
    network, process = factory.network(config), factory.process(config.diffusion)
    params = runs.random_params(network, seed=10)
    levels, _ = process.path(DDPM(steps=steps))

    @jax.jit
    def of_one(image, label, number):
        key = sample_keys(seed, number[None])
        condition = network.embed(params, {"label": label[None]})
        denoiser = process.denoiser(lambda *inputs: network.apply(params, *inputs))
        return bits_per_dimension(
            lambda x, level: denoiser(x, level, condition),
            levels,
            jnp.float32(image)[None] / 127.5 - 1,
            lambda i: normal(derived(key, Purpose.STEP, i), (8, 8, 1)),
        )

    rows = open_split(config.data, "test", config.model.conditions).fetch(numbers)
    each = [of_one(*row) for row in zip(rows["x"], rows["cond"]["label"], numbers, strict=True)]
    return jax.tree.map(lambda *parts: np.concatenate(parts), *each)


def test_the_job_saves_the_bound_of_every_image(model, capsys):
    bits.run(model, "test", steps=5, num_images=13, seed=2)
    out = resolve(model).run.folder / "likelihood_test_10.npz"
    before = load(out)
    saved = dict(before)
    settings = json.loads(saved.pop("settings").item())
    assert settings["model"] == f"{model}@10"
    assert (settings["split"], settings["num_images"], settings["steps"]) == ("test", 13, 5)
    levels, _ = factory.process(tiny.config().diffusion).path(DDPM(steps=5))
    np.testing.assert_array_equal(saved.pop("noise_level"), levels.ratio[:-1])
    assert {name: value.shape for name, value in saved.items()} == {
        name: (13,) if steps is None else (13, steps) for name, steps in TERMS.items()
    }
    chosen = np.array([0, 4, 12])
    expected = direct(chosen, 5, seed=2)
    for name, value in saved.items():
        np.testing.assert_allclose(value[chosen], expected[name], rtol=1e-4, err_msg=name)
    assert len(np.unique(saved["mse"])) == 13 * 5  # noise of its own for each image and step
    total = saved["total_bpd"]
    assert f"{total.mean():.4f} bits per dimension" in capsys.readouterr().out
    with pytest.raises(UserError, match="another seed"):
        bits.run(model, "test", steps=5, num_images=13, seed=1)
    jax.tree.map(np.testing.assert_array_equal, before, load(out))


def test_batches_and_devices_do_not_matter():
    config = tiny.config()
    network, process = factory.network(config), factory.process(config.diffusion)
    params, (levels, _) = runs.random_params(network), process.path(DDPM(steps=5))
    source = open_split(config.data, "test", config.model.conditions)

    def measure(batch_size, devices):
        mesh = make_mesh(devices=jax.devices()[:devices])
        sizes = {"batch_size": batch_size, "mesh": mesh, "levels": levels}
        return bits.measure(network, process, params, source, 11, **sizes)

    whole = measure(11, 1)
    assert whole["total_bpd"].std() > 1e-3
    # Batches of other sizes add in another order.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4), measure(4, 2), whole)


def test_requests_that_cannot_be_met_are_refused(model, tmp_path):
    classifier = runs.make_run(tmp_path / "run", runs.classifier(), steps=(5,))
    for fields, words in (
        ({"split": "validation"}, "no split validation"),
        ({"steps": 21}, "21"),
        ({"steps": "many"}, "many"),
        ({"num_images": 298}, "297"),
        ({"model": "nowhere"}, "nowhere"),
        ({"model": classifier}, "has a likelihood"),
        ({"model": f"{model}:dropout=.1"}, "has a likelihood"),
        ({"out": "/dev/null/terms.npz"}, "/dev/null"),
    ):
        with pytest.raises(UserError, match=words):
            bits.run(**{"model": model, "split": "test", **fields})


def test_the_command_line_measures_a_model_without_labels(tmp_path):
    model = runs.make_run(tmp_path / "run", runs.unlabelled(), steps=(5,))
    program, out = ["-m", "jaxdiff.evaluation.likelihood", f"--model={model}"], tmp_path / "x.npz"
    options = ["--split=train", "--steps=ddim5", "--num_images=3", f"--out={out}"]
    options.append("--import=studies.digits.data")
    code, printed, err = run(*program, *options)
    assert code == 0, err
    assert "bits per dimension, standard error" in printed
    assert load(out)["vb"].shape == (3, 5)
    code, _, err = run(*program)
    assert (code, err.count("\n")) == (1, 1)
    assert "--split" in err
