"""Runs of EDM's process through the loop that trains everything: the toy, and a UNet."""

import jax
import numpy as np
import pytest
from jaxdiff.models.toy import constrain
from PIL import Image

from configs import toy
from jaxdiff.checkpoints.run import Run
from jaxdiff.data.source import open_split
from jaxdiff.data.statistics import standard_deviation
from jaxdiff.errors import UserError
from jaxdiff.parallel import mesh as mesh_lib
from jaxdiff.training import loop, workdir
from tests import tiny
from tests.sampling.test_job import make_run, sample
from tests.training import events
from tests.training.test_loop import saved_values


@pytest.fixture(autouse=True, scope="module")
def on_one_device():
    everything = mesh_lib.make_mesh
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_mesh", lambda fsdp: everything(fsdp, jax.devices()[:1]))
        yield


def short(num_steps=20, **overrides):
    config = toy.get_config()
    fields = {
        "model.channels": 32,
        "training.batch_size": 64,
        "training.num_steps": num_steps,
        "training.log_every": 5,
        "training.checkpoint_every": 10,
        "training.preview_every": 20,
        "training.power_ema": (0.05, 0.1),
        "sampling.steps": "4",
    }
    config.update_from_flattened_dict({**fields, **overrides})
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("toy") / "whole"
    loop.train(short(), path)
    return Run(path)


def test_twenty_steps_of_the_toy_and_ten_and_ten_are_bit_identical(finished, tmp_path):
    loop.train(short(10), tmp_path / "parts")
    loop.train(short(), tmp_path / "parts")
    one = saved_values(finished.checkpoints, 20)
    two = saved_values(tmp_path / "parts" / "checkpoints", 20)
    assert {"power_0.05", "power_0.1"} == {n.split("'")[1] for n in one if n.startswith("ema")}
    assert one.keys() == two.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name], err_msg=name)


def test_its_preview_is_a_scatter_of_points(finished):
    with Image.open(finished.previews / "20.png") as picture:
        assert picture.size == (640, 640)
        assert 0.002 < (np.asarray(picture.convert("L")) < 128).mean() < 0.2


def test_the_optimizer_moves_constrained_parameters(finished):
    kernels = {
        name: value
        for name, value in saved_values(finished.checkpoints, 20).items()
        if name.startswith("params") and value.ndim == 2
    }
    assert len(kernels) == 5
    for value in kernels.values():
        # One step of .01 after it was last constrained, and not twenty.
        size = np.sqrt((value**2).mean(0))
        assert abs(size - 1).max() < 0.03
        np.testing.assert_allclose(constrain({"kernel": value})["kernel"], value / size, rtol=1e-3)


def test_training_brings_the_loss_down(tmp_path, monkeypatch):
    seen = []

    class Noting(loop.Metrics):
        def push(self, number, sums):
            seen.append(float(sums["loss"][0] / sums["loss"][1]))
            super().push(number, sums)

    monkeypatch.setattr(loop, "Metrics", Noting)
    loop.train(short(100, **{"training.batch_size": 512}), tmp_path)
    assert seen[-1] < 0.7 * seen[0]


def images(num_steps=4, **overrides):
    fields = {
        "diffusion__process": "edm",
        "training__num_steps": num_steps,
        "training__log_every": 2,
        "training__preview_every": 4,
        "training__power_ema": (0.05, 0.10),
        "sampling__sampler": "heun",
    }
    return tiny.config(**{**fields, **overrides})


def learned(num_steps=4, data_std=0.0):
    return images(num_steps, diffusion__uncertainty=True, diffusion__data_std=data_std)


@pytest.fixture(scope="module")
def weighted(tmp_path_factory):
    """A UNet with EDM's preconditioning and EDM2's learned weights, in one go."""
    path = tmp_path_factory.mktemp("edm") / "whole"
    loop.train(learned(), path)
    return Run(path)


def test_a_unet_trains_with_learned_weights_and_goes_on_bit_exactly(weighted, tmp_path):
    assert (weighted.previews / "4.png").exists()
    loop.train(learned(2), tmp_path)
    loop.train(learned(), tmp_path)
    one, two = (saved_values(run.checkpoints, 4) for run in (weighted, Run(tmp_path)))
    assert one.keys() == two.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name], err_msg=name)
    # The head is trained and averaged with the rest.
    heads = [name for name in one if "head" in name and name.endswith("['kernel']")]
    assert {name.split("[")[0] for name in heads} == {"params", "opt_state", "ema"}
    assert all(one[name].any() for name in heads)
    scalars = events.read(weighted.tensorboard)
    assert list(scalars["weighted"]) == list(scalars["loss"]) == [2, 4]


def test_the_data_s_deviation_is_measured_once(weighted, tmp_path, monkeypatch, capsys):
    digits = open_split(weighted.config().data, "train")
    measured = weighted.config().diffusion.data_std
    assert measured == standard_deviation(digits)
    assert 0.5 < measured < 1
    # A run that has begun keeps its own, whether it goes on with 0 or with the number.
    monkeypatch.setattr(folder, "standard_deviation", None)
    for stated in (0.0, measured):
        loop.train(learned(data_std=stated), weighted.folder)
        assert weighted.config().diffusion.data_std == measured
    with pytest.raises(UserError, match="data_std .* in the run, now 0.5"):
        loop.train(learned(data_std=0.5), weighted.folder)
    stated = images(diffusion__data_std=0.25)
    assert workdir.measure(stated, tmp_path, digits).diffusion.data_std == 0.25


def test_a_run_with_learned_weights_guides_one_without(weighted, tmp_path):
    plain = make_run(tmp_path / "plain", images(training__power_ema=()))
    fields = {"guide": (str(weighted.folder),), "weight": (2.0,), "num_samples": 2}
    arrays, _ = sample(tmp_path / "out", model=plain, **fields)
    assert arrays["arr_0"].shape == (2, 8, 8, 1)
