"""Runs of EDM's process through the loop that trains everything: the toy, and a UNet."""

import jax
import numpy as np
import pytest
from PIL import Image

from configs import toy
from jaxdiff.checkpoints.run import Run
from jaxdiff.models.toy import constrain
from jaxdiff.parallel import mesh as mesh_lib
from jaxdiff.training import loop
from tests import tiny
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
    folder = tmp_path_factory.mktemp("toy") / "whole"
    loop.train(short(), folder)
    return Run(folder)


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


def test_a_unet_trains_with_edm_preconditioning(tmp_path):
    config = tiny.config(
        diffusion__process="edm",
        training__num_steps=4,
        training__preview_every=4,
        training__power_ema=(0.05, 0.10),
        sampling__sampler="heun",
    )
    loop.train(config, tmp_path)
    values = saved_values(Run(tmp_path).checkpoints, 4)
    assert all(np.isfinite(value).all() for value in values.values())
    assert (tmp_path / "previews" / "4.png").exists()
