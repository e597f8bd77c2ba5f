"""Every config file: it builds what its docstring says."""

import importlib
import re

import jax
import pytest

from jaxdiff import factory
from jaxdiff.checkpoints import posthoc_ema, power_ema
from jaxdiff.config import Label, RunConfig, differences, from_dict, to_dict
from tests.conftest import ROOT

FILES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "configs").rglob("*.py")
    if path.stem not in ("common", "__init__")
)


def get(name):
    return importlib.import_module(name).get_config()


def stated(name):
    """The number of parameters that a config's docstring states; None if it states none."""
    found = re.search(r"([\d,]+)\s+parameters", importlib.import_module(name).__doc__)
    return int(found[1].replace(",", "")) if found else None


def parameters(config):
    return sum(leaf.size for leaf in jax.tree.leaves(factory.network(config).shapes))


@pytest.mark.parametrize("name", FILES)
def test_a_config_is_a_run_s_and_comes_back_from_its_file(name):
    config = get(name)
    assert isinstance(config, RunConfig)
    assert from_dict(to_dict(config)) == config
    text = importlib.import_module(name).__doc__
    assert f"--config {name.replace('.', '/')}.py" in text


# Those of configs/adm are compared with the released files' sizes elsewhere.
@pytest.mark.parametrize("name", [n for n in FILES if ".adm." not in n and stated(n)])
def test_a_config_builds_the_network_that_it_says(name):
    assert parameters(get(name)) == stated(name)


def test_imagenet_s_network_is_adm_s_but_for_its_ends():
    # Three channels without a learned variance, a null class, and the head of learned weights.
    edm, adm = (stated(f"configs.{name}") for name in ("imagenet64_edm", "adm.imagenet64"))
    assert edm == adm - 3 * (9 * 192 + 1) + 4 * 192 + 129


@pytest.mark.parametrize("data", ["digits", "fashion"])
def test_a_guide_is_smaller_and_trained_less_on_the_same_images(data):
    model, guide, classifier = (
        get(f"configs.{data}_{part}") for part in ("edm", "edm_guide", "classifier")
    )
    for config in (model, guide, classifier):
        assert config.data == model.data
        assert config.label == Label(10)
    assert parameters(guide) < parameters(model)
    assert guide.training.num_steps < model.training.num_steps
    assert guide.diffusion == model.diffusion


def test_the_sweep_of_the_documentation_can_be_rebuilt():
    config = get("configs.digits_edm_guide")
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
    model, guide = (get(f"configs.{name}") for name in ("imagenet64_edm", "imagenet64_edm_guide"))
    assert 8 * guide.training.num_steps == model.training.num_steps
    assert {text.split(" ")[0] for text in differences(model, guide)} == {
        "model.channels",
        "model.head_channels",
    }


def test_the_toy_s_process_is_of_its_data():
    for name in ("toy", "toy_guide", "toy_unconditional"):
        config = get(f"configs.{name}")
        assert config.data.classes == config.diffusion.classes
