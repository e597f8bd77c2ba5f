"""The configs of the released models build, without memory, networks of the sizes released."""

import importlib.util

import jax
import pytest

from jaxdiff import build
from jaxdiff import config as config_lib
from jaxdiff.interop.openai_names import tensors
from tests.conftest import ROOT

FOLDER = ROOT / "configs" / "adm"

LSUN = (552_814_086, 566)
# Parameters and tensors of the released files.
SIZES = {
    "imagenet64": (295_904_454, 541),
    "imagenet128": (421_529_606, 493),
    "imagenet256": (553_838_086, 567),
    "imagenet256_unconditional": (552_814_086, 566),
    "imagenet512": (558_997_638, 645),
    "upsample64_256": (311_795_910, 567),
    "upsample128_512": (308_835_270, 537),
    "lsun_bedroom": LSUN,
    "lsun_cat": LSUN,
    "lsun_horse": LSUN,
    "classifier64": (65_438_568, 307),
    "classifier128": (42_568_040, 221),
    "classifier256": (54_096_360, 249),
    "classifier512": (54_448_360, 281),
}


def load(name):
    """The config of a file, read by its path as the programs read it."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


COUNTS = {}


def counts(config):
    """Parameters and tensors; several models have the same network, and tracing it takes long."""
    network = build.network(config)
    if network.spec not in COUNTS:
        leaves = jax.tree.leaves(network.shapes)
        assert len(list(tensors(network))) == len(leaves)
        COUNTS[network.spec] = sum(leaf.size for leaf in leaves), len(leaves)
    return COUNTS[network.spec]


def test_every_config_is_tested():
    assert {path.stem for path in FOLDER.glob("*.py")} == {*SIZES, "common"}


@pytest.mark.parametrize("name", SIZES)
def test_a_config_builds_the_released_network(name):
    config = load(name)
    config_lib.validate(config)
    build.process(config)
    assert counts(config) == SIZES[name]
    # The number is what a reader of the file sees.
    assert f"{SIZES[name][0]:,} parameters" in (FOLDER / f"{name}.py").read_text()


@pytest.mark.parametrize("size", [64, 128, 256, 512])
def test_a_classifier_has_its_diffusion_models_noise_and_a_falling_learning_rate(size):
    guide, model = load(f"classifier{size}"), load(f"imagenet{size}")
    assert build.process(guide) == build.process(model)
    assert guide.training.anneal_steps == guide.training.num_steps
    assert guide.data.image_size == model.data.image_size == size
