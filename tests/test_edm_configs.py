"""The configs that autoguidance is shown with, or made for: they build what they say."""

import importlib

import jax
import pytest

from jaxdiff import build
from jaxdiff import config as config_lib
from jaxdiff.checkpoints import posthoc, rebuild
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("imagenet64_edm", 295_900_164),
        ("imagenet64_edm_guide", 74_231_364),
        ("fashion_edm", 440_801),
    ],
)
def test_a_config_builds_the_network_that_it_says(name, parameters):
    config = importlib.import_module(f"configs.{name}").get_config()
    config_lib.validate(config)
    assert build.process(config).data_std == {"fashion_edm": 0.66}.get(name, 0.5)
    network = build.network(config)
    assert sum(leaf.size for leaf in jax.tree.leaves(network.shapes)) == parameters
    assert f"{parameters:,} parameters" in (ROOT / "configs" / f"{name}.py").read_text()
    # Of ADM's network: three channels without a learned variance, a null class, and the head.
    if name == "imagenet64_edm":
        assert parameters == 295_904_454 - 3 * (9 * 192 + 1) + 4 * 192 + 129


@pytest.mark.parametrize("data", ["digits", "fashion"])
def test_a_guide_is_smaller_and_trained_less_on_the_same_images(data):
    model, guide, classifier = (
        importlib.import_module(f"configs.{data}_{part}").get_config()
        for part in ("edm", "edm_guide", "classifier")
    )
    for config in (model, guide, classifier):
        config_lib.validate(config)
        assert config.data == model.data
    sizes = [
        sum(leaf.size for leaf in jax.tree.leaves(build.network(config).shapes))
        for config in (model, guide)
    ]
    assert sizes[1] < sizes[0]
    assert guide.training.num_steps < model.training.num_steps
    assert guide.diffusion == model.diffusion


def test_the_sweep_of_the_documentation_can_be_rebuilt():
    config = importlib.import_module("configs.digits_edm_guide").get_config()
    for step in (250, 500, 1000):
        steps = range(config.training.snapshot_every, step + 1, config.training.snapshot_every)
        stored = [(length, s) for s in steps for length in config.training.power_ema]
        solution = posthoc.solve(
            *zip(*stored, strict=True),
            [posthoc.ROUNDING["float32"]] * len(stored),
            [0.05, 0.1, 0.15],
            step,
        )
        assert (solution.error <= rebuild.TRUSTED).all()


def test_the_guide_differs_in_size_and_length_alone():
    model, guide = (
        importlib.import_module(f"configs.{name}").get_config()
        for name in ("imagenet64_edm", "imagenet64_edm_guide")
    )
    assert 8 * guide.training.num_steps == model.training.num_steps
    assert {text.split(" ")[0] for text in config_lib.differences(model, guide)} == {
        "model.channels",
        "model.head_channels",
    }
