"""The released models: sizes of their networks, and what training keeps. No memory is needed."""

import dataclasses
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import factory
from jaxdiff.config import replaced
from jaxdiff.interop.openai_flags import config_of
from jaxdiff.interop.openai_names import tensors
from jaxdiff.models.condition import Dropout
from tests.conftest import ROOT

FOLDER = ROOT / "configs" / "adm"

# The flags that the checkpoints were released with, in arXiv:2105.05233's repository.
COMMON = "--attention_resolutions 32,16,8 --resblock_updown True --use_scale_shift_norm True "
COMMON += "--learn_sigma True --use_fp16 True "
BIG = COMMON + "--num_channels 256 --num_res_blocks 2 --diffusion_steps 1000 "
HEADS = "--num_head_channels 64 "
LSUN = BIG + HEADS + "--image_size 256 --dropout 0.1 --noise_schedule linear"
UPSAMPLE = "--class_cond True --num_channels 192 --num_res_blocks 2 "
CLASSIFIER = "--classifier_attention_resolutions 32,16,8 --classifier_pool attention "
CLASSIFIER += "--classifier_resblock_updown True --classifier_use_scale_shift_norm True "
CLASSIFIER += "--classifier_width 128 "
# Parameters and tensors of the released files, and the flags.
RELEASED = {
    "imagenet64": (
        295_904_454,
        541,
        COMMON + HEADS + "--class_cond True --image_size 64 --num_channels 192 --num_res_blocks 3 "
        "--noise_schedule cosine --dropout 0.1 --use_new_attention_order True",
    ),
    "imagenet128": (421_529_606, 493, BIG + "--class_cond True --image_size 128 --num_heads 4"),
    "imagenet256": (553_838_086, 567, BIG + HEADS + "--class_cond True --image_size 256"),
    "imagenet256_unconditional": (552_814_086, 566, BIG + HEADS + "--image_size 256"),
    "imagenet512": (558_997_638, 645, BIG + HEADS + "--class_cond True --image_size 512"),
    "upsample64_256": (
        311_795_910,
        567,
        COMMON + UPSAMPLE + "--large_size 256 --small_size 64 --num_heads 4",
    ),
    "upsample128_512": (
        308_835_270,
        537,
        COMMON + UPSAMPLE + HEADS + "--attention_resolutions 32,16 --large_size 512 "
        "--small_size 128",
    ),
    "lsun_bedroom": (552_814_086, 566, LSUN),
    "lsun_cat": (552_814_086, 566, LSUN),
    "lsun_horse": (552_814_086, 566, LSUN),
    "classifier64": (
        65_438_568,
        307,
        CLASSIFIER + "--image_size 64 --classifier_depth 4 --noise_schedule cosine",
    ),
    "classifier128": (42_568_040, 221, CLASSIFIER + "--image_size 128 --classifier_depth 2"),
    "classifier256": (54_096_360, 249, CLASSIFIER + "--image_size 256 --classifier_depth 2"),
    "classifier512": (54_448_360, 281, CLASSIFIER + "--image_size 512 --classifier_depth 2"),
}


def load(name):
    return importlib.import_module(f"configs.adm.{name}").get_config()


TRACED = {}


def traced(config):
    """Parameters, tensors, and {name there: shape} of a config's network.

    Several models have the same network, and tracing it takes long.
    """
    key = dataclasses.replace(config.model, dropout=0.0), config.signature
    if key not in TRACED:
        network = factory.network(config)
        leaves = jax.tree.leaves(network.shapes)
        # Each has one name in a released state dict.
        table = list(tensors(network))
        assert len({tensor.name for tensor in table}) == len(table) == len(leaves)
        assert len({tensor.path for tensor in table}) == len(leaves)
        shapes = {tensor.name: tensor.their_shape for tensor in table}
        TRACED[key] = sum(leaf.size for leaf in leaves), len(leaves), shapes
    return TRACED[key]


def test_every_config_is_tested():
    assert {path.stem for path in FOLDER.glob("*.py")} == {*RELEASED, "common"}


@pytest.mark.parametrize("name", RELEASED)
def test_a_config_and_the_released_flags_make_the_released_network(name):
    config, (parameters, count, flags) = load(name), RELEASED[name]
    assert traced(config)[:2] == (parameters, count)
    # The number is what a reader of the file sees.
    assert f"{parameters:,} parameters" in (FOLDER / f"{name}.py").read_text()
    state_dict = {n: np.broadcast_to(np.float32(0), s) for n, s in traced(config)[2].items()}
    found, new_order = config_of(flags, state_dict)
    assert new_order == (name == "imagenet64")
    assert found.model == config.model
    assert found.signature == config.signature
    assert found.data.low_res_size == config.data.low_res_size
    # With 1,000 timesteps both are the same loss.
    losses = {"diffusion.loss": "hybrid"}
    assert replaced(found, losses).diffusion == replaced(config, losses).diffusion


@pytest.mark.parametrize("size", [64, 128, 256, 512])
def test_a_classifier_has_its_diffusion_models_noise_and_a_falling_learning_rate(size):
    guide, model = load(f"classifier{size}"), load(f"imagenet{size}")
    assert guide.diffusion == model.diffusion
    assert guide.training.anneal_steps == guide.training.num_steps
    assert guide.data.image_size == model.data.image_size == size


def kept_bytes(remat):
    """What ADM-64's backward pass is handed at batch 32 in bfloat16, parameters included."""
    config = replaced(load("imagenet64"), {"training.dtype": "bfloat16", "training.remat": remat})
    network = factory.network(config)

    def backward(params, x, labels, keys):
        def loss(params):
            condition = network.embed(params, {"label": labels})
            dropout = Dropout(config.model.dropout, keys)
            return network.apply(params, x, jnp.zeros(32), condition, dropout).mean()

        return jax.vjp(loss, params)[1]

    def inputs():
        keys = jax.random.split(jax.random.key(0), 32)
        return jnp.zeros((32, 64, 64, 3)), jnp.zeros(32, jnp.int32), keys

    residuals = jax.eval_shape(backward, network.shapes, *jax.eval_shape(inputs))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(residuals))


@pytest.mark.slow
def test_remat_keeps_at_most_a_quarter():
    assert kept_bytes(remat=True) <= 0.25 * kept_bytes(remat=False)
