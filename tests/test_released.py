"""The released models: sizes of their networks, and what training keeps. No memory is needed."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest

from jaxdiff import config as config_lib
from jaxdiff import factory
from jaxdiff.interop import openai
from jaxdiff.interop.openai_infer import Options, infer
from jaxdiff.interop.openai_names import tensors
from jaxdiff.interop.openai_released import released_new_order
from tests.conftest import ROOT

FOLDER = ROOT / "configs" / "adm"

SIX_LEVELS = (1, 1, 2, 2, 4, 4)
HEADS = {"num_head_channels": 64}
FOUR = {"num_heads": 4}
LSUN = (552_814_086, 566, 256, 256, SIX_LEVELS, 2, HEADS)

# Parameters and tensors of the released files; image size, width, channel_mult, blocks a level and
# heads of the flags they were released with.
MODELS = {
    "imagenet64": (295_904_454, 541, 64, 192, (1, 2, 3, 4), 3, HEADS),
    "imagenet128": (421_529_606, 493, 128, 256, (1, 1, 2, 3, 4), 2, FOUR),
    "imagenet256": (553_838_086, 567, 256, 256, SIX_LEVELS, 2, HEADS),
    "imagenet256_unconditional": (552_814_086, 566, 256, 256, SIX_LEVELS, 2, HEADS),
    "imagenet512": (558_997_638, 645, 512, 256, (0.5, 1, 1, 2, 2, 4, 4), 2, HEADS),
    "upsample64_256": (311_795_910, 567, 256, 192, SIX_LEVELS, 2, FOUR),
    "upsample128_512": (308_835_270, 537, 512, 192, SIX_LEVELS, 2, HEADS),
    "lsun_bedroom": LSUN,
    "lsun_cat": LSUN,
    "lsun_horse": LSUN,
}
CLASSIFIERS = {
    "classifier64": (65_438_568, 307, 64, 128, (1, 2, 3, 4), 4, HEADS),
    "classifier128": (42_568_040, 221, 128, 128, (1, 1, 2, 3, 4), 2, HEADS),
    "classifier256": (54_096_360, 249, 256, 128, SIX_LEVELS, 2, HEADS),
    "classifier512": (54_448_360, 281, 512, 128, (0.5, 1, 1, 2, 2, 4, 4), 2, HEADS),
}
RELEASED = {**MODELS, **CLASSIFIERS}


def load(name):
    """The config of a file, read by its path as the programs read it."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def by_flags(name):
    """The network of a released model by the flags of the reference's programs."""
    _, _, size, width, mult, blocks, heads = RELEASED[name]
    attention = (32, 16) if name == "upsample128_512" else (32, 16, 8)
    options = {
        "image_size": size,
        "in_channels": 3,
        "model_channels": width,
        "channel_mult": mult,
        "num_res_blocks": blocks,
        "attention_resolutions": [size // resolution for resolution in attention],
        "use_scale_shift_norm": True,
        "resblock_updown": True,
        **heads,
    }
    if name in CLASSIFIERS:
        return openai.classifier_network(out_channels=1000, pool="attention", **options)
    unlabelled = "unconditional" in name or "lsun" in name
    return openai.unet_network(
        out_channels=6,
        num_classes=None if unlabelled else 1000,
        super_resolution="upsample" in name,
        **options,
    )


TRACED = {}


def traced(network):
    """Parameters, tensors, and {name there: shape}.

    Several models have the same network, and tracing it takes long.
    """
    if network.spec not in TRACED:
        leaves = jax.tree.leaves(network.shapes)
        # Each has one name in a released state dict.
        table = list(tensors(network))
        assert len({tensor.name for tensor in table}) == len(table) == len(leaves)
        assert len({tensor.path for tensor in table}) == len(leaves)
        shapes = {tensor.name: tensor.their_shape for tensor in table}
        TRACED[network.spec] = sum(leaf.size for leaf in leaves), len(leaves), shapes
    return TRACED[network.spec]


def test_every_config_is_tested():
    assert {path.stem for path in FOLDER.glob("*.py")} == {*RELEASED, "common"}


@pytest.mark.parametrize("name", RELEASED)
def test_a_config_and_the_released_flags_build_the_released_network(name):
    config = load(name)
    config_lib.validate(config)
    factory.process(config)
    parameters, count, *_ = RELEASED[name]
    network = factory.network(config)
    assert traced(network)[:2] == (parameters, count)
    assert by_flags(name).spec == network.spec
    # The number is what a reader of the file sees.
    assert f"{parameters:,} parameters" in (FOLDER / f"{name}.py").read_text()


# What no tensor says, beside the section `training`.
UNSAID = {"data.name", "data.augment", "data.workers", "data.held_out", "model.dropout"}
UNSAID |= {"sampling.steps"}


@pytest.mark.parametrize("name", RELEASED)
def test_the_config_of_a_released_network_is_read_off_its_tensors(name):
    config = load(name)
    network = factory.network(config)
    inferred, _ = infer(traced(network)[2], Options())
    config_lib.validate(inferred)
    assert factory.network(inferred).spec == network.spec
    assert factory.process(inferred) == factory.process(config)
    expected, found = config_lib.flatten(config), config_lib.flatten(inferred)
    different = {field for field in expected if found[field] != expected[field]}
    assert {field for field in different if not field.startswith("training.")} <= UNSAID
    assert released_new_order(inferred) == released_new_order(config) == (name == "imagenet64")


@pytest.mark.parametrize("size", [64, 128, 256, 512])
def test_a_classifier_has_its_diffusion_models_noise_and_a_falling_learning_rate(size):
    guide, model = load(f"classifier{size}"), load(f"imagenet{size}")
    assert factory.process(guide) == factory.process(model)
    assert guide.training.anneal_steps == guide.training.num_steps
    assert guide.data.image_size == model.data.image_size == size


def kept_bytes(remat):
    """What ADM-64's backward pass is handed at batch 32 in bfloat16, parameters included."""
    config = load("imagenet64")
    config.training.dtype = "bfloat16"
    config.training.remat = remat
    network = factory.network(config)

    def backward(params, x, labels, keys):
        def loss(params):
            embedding = network.embed(params, labels)
            drop = {"drop_rate": config.model.dropout, "drop_keys": keys}
            return network.apply(params, x, jnp.zeros(32), embedding, **drop).mean()

        return jax.vjp(loss, params)[1]

    def inputs():
        keys = jax.random.split(jax.random.key(0), 32)
        return jnp.zeros((32, 64, 64, 3)), jnp.zeros(32, jnp.int32), keys

    residuals = jax.eval_shape(backward, network.shapes, *jax.eval_shape(inputs))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(residuals))


@pytest.mark.slow
def test_remat_keeps_at_most_a_quarter():
    assert kept_bytes(remat=True) <= 0.25 * kept_bytes(remat=False)
