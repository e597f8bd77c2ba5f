"""Sizes of the paper's released networks, and what training keeps: neither takes memory to tell."""

import jax
import jax.numpy as jnp
import pytest

from configs.adm import imagenet64
from jaxdiff import build
from jaxdiff.interop import openai
from jaxdiff.interop.openai_names import tensors

SIX_LEVELS = (1, 1, 2, 2, 4, 4)
HEADS = {"num_head_channels": 64}
FOUR = {"num_heads": 4}

# Parameters, tensors, image size, width, channel_mult, blocks a level, heads.
MODELS = {
    "64": (295_904_454, 541, 64, 192, (1, 2, 3, 4), 3, HEADS),
    "128": (421_529_606, 493, 128, 256, (1, 1, 2, 3, 4), 2, FOUR),
    "256": (553_838_086, 567, 256, 256, SIX_LEVELS, 2, HEADS),
    "256 without labels": (552_814_086, 566, 256, 256, SIX_LEVELS, 2, HEADS),
    "512": (558_997_638, 645, 512, 256, (0.5, 1, 1, 2, 2, 4, 4), 2, HEADS),
    "64 to 256": (311_795_910, 567, 256, 192, SIX_LEVELS, 2, FOUR),
    "128 to 512": (308_835_270, 537, 512, 192, SIX_LEVELS, 2, HEADS),
}
CLASSIFIERS = {
    "64": (65_438_568, 307, 64, 128, (1, 2, 3, 4), 4, HEADS),
    "128": (42_568_040, 221, 128, 128, (1, 1, 2, 3, 4), 2, HEADS),
    "256": (54_096_360, 249, 256, 128, SIX_LEVELS, 2, HEADS),
    "512": (54_448_360, 281, 512, 128, (0.5, 1, 1, 2, 2, 4, 4), 2, HEADS),
}


def options(size, width, mult, blocks, heads, attention=(32, 16, 8)):
    return {
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


def assert_counts(network, parameters, count):
    leaves = jax.tree.leaves(network.shapes)
    assert sum(leaf.size for leaf in leaves) == parameters
    assert len(leaves) == count
    # Each has one name in a released state dict.
    table = list(tensors(network))
    assert len({tensor.name for tensor in table}) == len(table) == count
    assert len({tensor.path for tensor in table}) == count


@pytest.mark.parametrize("name", MODELS)
def test_diffusion_models(name):
    parameters, count, *sizes = MODELS[name]
    attention = (32, 16) if name == "128 to 512" else (32, 16, 8)
    network = openai.unet_network(
        out_channels=6,
        num_classes=None if "without" in name else 1000,
        super_resolution="to" in name,
        **options(*sizes, attention),
    )
    assert_counts(network, parameters, count)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers(name):
    parameters, count, *sizes = CLASSIFIERS[name]
    network = openai.classifier_network(out_channels=1000, pool="attention", **options(*sizes))
    assert_counts(network, parameters, count)


def kept_bytes(remat):
    """What ADM-64's backward pass is handed at batch 32 in bfloat16, parameters included."""
    config = imagenet64.get_config()
    config.training.dtype = "bfloat16"
    config.training.remat = remat
    network = build.network(config)

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


def test_remat_keeps_at_most_a_quarter():
    assert kept_bytes(remat=True) <= 0.25 * kept_bytes(remat=False)
