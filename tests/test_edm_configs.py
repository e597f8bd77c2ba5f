"""The configs that autoguidance is shown with, or made for: they build what they say."""

import importlib
import re

import jax
import pytest

from jaxdiff import config as config_lib
from jaxdiff import factory
from jaxdiff.checkpoints import posthoc_ema, power_ema
from tests.conftest import ROOT


def stated(name):
    """The number of parameters that a config's docstring states; None if it states none."""
    text = (ROOT / "configs" / f"{name}.py").read_text()
    found = re.search(r"([\d,]+)\s+parameters", text)
    return int(found[1].replace(",", "")) if found else None


def parameters(config):
    return sum(leaf.size for leaf in jax.tree.leaves(factory.network(config).shapes))


# Those of configs/adm are held against the released files' sizes elsewhere.
STATED = sorted(path.stem for path in (ROOT / "configs").glob("*.py") if stated(path.stem))


@pytest.mark.parametrize("name", STATED)
def test_a_config_builds_the_network_that_it_says(name):
    config = importlib.import_module(f"configs.{name}").get_config()
    config_lib.validate(config)
    assert parameters(config) == stated(name)


def test_imagenet_s_network_is_adm_s_but_for_its_ends():
    # Three channels without a learned variance, a null class, and the head of learned weights.
    edm, adm = (stated(name) for name in ("imagenet64_edm", "adm/imagenet64"))
    assert edm == adm - 3 * (9 * 192 + 1) + 4 * 192 + 129


@pytest.mark.parametrize(("name", "std"), [("imagenet64_edm", 0.5), ("fashion_edm", 0.66)])
def test_a_process_knows_its_data_s_deviation(name, std):
    config = importlib.import_module(f"configs.{name}").get_config()
    assert factory.process(config).data_std == std


@pytest.mark.parametrize("data", ["digits", "fashion"])
def test_a_guide_is_smaller_and_trained_less_on_the_same_images(data):
    model, guide, classifier = (
        importlib.import_module(f"configs.{data}_{part}").get_config()
        for part in ("edm", "edm_guide", "classifier")
    )
    for config in (model, guide, classifier):
        config_lib.validate(config)
        assert config.data == model.data
    assert parameters(guide) < parameters(model)
    assert guide.training.num_steps < model.training.num_steps
    assert guide.diffusion == model.diffusion


def test_the_sweep_of_the_documentation_can_be_rebuilt():
    config = importlib.import_module("configs.digits_edm_guide").get_config()
    for step in (250, 500, 1000):
        steps = range(config.training.snapshot_every, step + 1, config.training.snapshot_every)
        stored = [(length, s) for s in steps for length in config.training.power_ema]
        solution = power_ema.solve(
            *zip(*stored, strict=True),
            [power_ema.ROUNDING["float32"]] * len(stored),
            [0.05, 0.1, 0.15],
            step,
        )
        assert (solution.error <= posthoc_ema.TRUSTED).all()


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
