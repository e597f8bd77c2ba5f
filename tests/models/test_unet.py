from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict

from jaxdiff.config import Image, Label, Signature, UNetConfig
from jaxdiff.models.condition import Dropout
from jaxdiff.models.encoder import Builder
from jaxdiff.models.layers import resized
from jaxdiff.models.network import Network

SMALL = {
    "channels": 32,
    "channel_mult": (1, 2),
    "num_res_blocks": 1,
    "attention_resolutions": (4,),
    "head_channels": 32,
    "conditions": (Label(10),),
}
ONE_LEVEL = {"channel_mult": (1,), "attention_resolutions": ()}


def make(size=8, channels_in=1, signature=None, **changes):
    """A small UNet for images [size, size, channels_in], with twice as many channels of output."""
    config = UNetConfig(**{**SMALL, **changes})
    config.check_shape((size, size, channels_in))
    given = {"shape": (size, size, channels_in), "out_channels": 2 * channels_in}
    return Network(config, Signature(**{**given, **(signature or {})}))


def random_params(network, seed=0):
    """Parameters without zeros, so that every part of the network matters."""
    leaves, tree = jax.tree.flatten(network.shapes)
    random = np.random.RandomState(seed)
    return tree.unflatten(
        [jnp.asarray(random.standard_normal(leaf.shape) * 0.1, leaf.dtype) for leaf in leaves]
    )


def inputs(size=8, channels=1, batch=3):
    random = np.random.RandomState(1)
    x = jnp.asarray(random.standard_normal((batch, size, size, channels)), jnp.float32)
    return x, jnp.arange(batch) * 100.0, jnp.arange(batch, dtype=jnp.int32)


# Compiled once for each network, whatever it is run on.
@partial(jax.jit, static_argnums=0)
def run(network, params, x, time, labels, dropout=None, **images):
    condition = network.embed(params, {"label": labels, **images})
    return network.apply(params, x, time, condition, dropout)


@pytest.mark.parametrize(
    ("size", "channels", "changes"),
    [
        (12, 1, {"attention_resolutions": (6,)}),
        (16, 3, {"attention_resolutions": (16, 8)}),
        (8, 1, {"conditions": ()}),
        (7, 1, ONE_LEVEL),
        (8, 1, {"channel_mult": (0.5, 1, 1.5), "channels": 64, "attention_resolutions": ()}),
        (8, 1, {"resblock_updown": False, "adaptive_norm": False, "num_heads": 1}),
        (8, 1, {"resblock_updown": False, "conv_resample": False, "rescale_residuals": True}),
    ],
    ids=["12px", "rgb", "unconditional", "one level", "fractional", "plain", "nothing learned"],
)
def test_output_has_the_input_s_size_and_the_asked_channels(size, channels, changes):
    network = make(size, channels, **changes)
    output = jax.eval_shape(partial(run, network), network.shapes, *inputs(size, channels))
    assert output.shape == (3, size, size, 2 * channels)
    assert output.dtype == jnp.float32


def test_a_fresh_network_returns_zeros():
    network = make(**ONE_LEVEL)
    params = jax.jit(network.init)(jax.random.key(0))
    np.testing.assert_array_equal(run(network, params, *inputs()), np.zeros((3, 8, 8, 2)))


def test_time_label_and_image_all_matter():
    network = make()
    params = random_params(network)
    x, time, labels = inputs()
    base = run(network, params, x, time, labels)
    assert np.abs(run(network, params, x, time + 1, labels) - base).max() > 1e-4
    assert np.abs(run(network, params, x, time, labels + 1) - base).max() > 1e-4
    assert np.abs(run(network, params, x + 0.1, time, labels) - base).max() > 1e-4


def test_the_null_condition_of_labels_is_one_more_row():
    assert make().shapes["labels"]["embedding"].shape == (10, 128)
    assert make(signature={"null": True}).shapes["labels"]["embedding"].shape == (11, 128)


def test_samples_of_a_batch_do_not_mix():
    network = make(attention_resolutions=(8,), channel_mult=(1,))
    params = random_params(network)
    x, time, labels = inputs()
    together = run(network, params, x, time, labels)
    alone = run(network, params, x[1:2], time[1:2], labels[1:2])
    np.testing.assert_allclose(together[1:2], alone, atol=1e-5 * float(jnp.abs(together).max()))


def test_bfloat16_computes_nearly_the_same_with_float32_parameters():
    exact, rough = make(), make(signature={"dtype": "bfloat16"})
    params = random_params(exact)
    assert {leaf.dtype for leaf in jax.tree.leaves(rough.shapes)} == {jnp.dtype("float32")}
    a, b = run(exact, params, *inputs()), run(rough, params, *inputs())
    assert b.dtype == jnp.float32
    error = np.linalg.norm(a - b) / np.linalg.norm(a)
    assert 1e-5 < error < 3e-2  # not float32 in disguise, and not wrong


def test_remat_keeps_less_and_computes_the_same():
    x, time, labels = inputs(batch=4)

    def loss(network):
        return lambda p: jnp.mean(run(network, p, x, time, labels) ** 2)

    plain, remat = (make(**ONE_LEVEL, signature={"remat": remat}) for remat in (False, True))
    params = random_params(plain)

    def kept(network):
        residuals = jax.eval_shape(lambda p: jax.vjp(loss(network), p)[1], params)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(residuals))

    fixed = sum(leaf.size * 4 for leaf in jax.tree.leaves(params))
    # A block's input is kept with remat; without it, what its convolutions and norms take too.
    assert kept(remat) - fixed < 0.5 * (kept(plain) - fixed)
    a, b = (jax.jit(jax.grad(loss(network)))(params) for network in (plain, remat))
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(a))
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(left, right, atol=1e-5 * scale)


def test_dropout_is_drawn_from_the_samples_keys():
    network = make(**ONE_LEVEL)
    params = random_params(network)
    x, time, labels = inputs()
    keys = jax.random.split(jax.random.key(0), 3)
    base = run(network, params, x, time, labels, Dropout(0.0, keys))
    np.testing.assert_array_equal(base, run(network, params, x, time, labels))
    dropped = run(network, params, x, time, labels, Dropout(0.2, keys))
    assert np.abs(dropped - base).max() > 1e-3
    alone = run(network, params, x[2:], time[2:], labels[2:], Dropout(0.2, keys[2:]))
    np.testing.assert_allclose(dropped[2:], alone, atol=1e-5 * float(jnp.abs(dropped).max()))


def leaves(network):
    return {"/".join(path): leaf.shape for path, leaf in flatten_dict(network.shapes).items()}


def test_heads_by_count_are_heads_by_width():
    level = {"channel_mult": (1,), "attention_resolutions": (8,)}  # 32 wide

    def program(**changes):
        network = make(**level, **changes)
        assert leaves(network) == leaves(make(**level))
        return str(jax.make_jaxpr(partial(run, network))(network.shapes, *inputs()))

    by_width = program(head_channels=8)
    assert program(num_heads=4) == by_width
    assert program(head_channels=8, num_heads_upsample=4) == by_width
    in_encoder, in_decoder = (
        program(num_heads=2, num_heads_upsample=4),
        program(num_heads=4, num_heads_upsample=2),
    )
    assert len({by_width, in_encoder, in_decoder}) == 3


def test_plain_resampling_has_a_convolution_of_its_own():
    plain = leaves(make(resblock_updown=False))
    assert plain["encoder/blocks/1/conv/kernel"] == (3, 3, 32, 32)
    assert plain["decoder/blocks/1/1/conv/kernel"] == (3, 3, 64, 64)
    bare = leaves(make(resblock_updown=False, conv_resample=False))
    assert {name for name in plain if "/conv/" in name} == plain.keys() - bare.keys()
    biggan = leaves(make())
    assert biggan["encoder/blocks/1/res/conv1/kernel"] == (3, 3, 32, 32)
    assert biggan["decoder/blocks/1/1/res/conv1/kernel"] == (3, 3, 64, 64)


def test_without_adaptive_norm_the_embedding_is_added_before_it():
    # Two channels in a group: the norm of a single one would undo the addition.
    network = make(adaptive_norm=False, channels=64, **ONE_LEVEL)
    params = random_params(network)
    assert params["encoder"]["blocks"]["0"]["res"]["modulation"]["bias"].shape == (64,)
    shift = np.random.RandomState(2).standard_normal(64)

    def shifted(layer):
        copy = jax.tree.map(lambda leaf: leaf, params)
        copy["encoder"]["blocks"]["0"]["res"][layer]["bias"] += shift
        return run(network, copy, *inputs())

    np.testing.assert_allclose(shifted("modulation"), shifted("conv1"), atol=1e-5)
    assert np.abs(shifted("conv1") - run(network, params, *inputs())).max() > 1e-3


@pytest.mark.parametrize("rescale", [False, True])
def test_residuals_are_rescaled_where_asked_for(rescale):
    config = make(rescale_residuals=rescale).config
    x, emb = jnp.ones((1, 4, 4, 32)), jnp.ones((1, 128))
    block = Builder(config, jnp.float32, nnx.Rngs(0)).block(32, 32, num_heads=1)
    # A fresh block adds nothing to its input.
    np.testing.assert_allclose(block(x, emb), x / 2 if rescale else x, rtol=1e-6)


def test_super_resolution_takes_the_enlarged_image_as_further_channels():
    network = make(**ONE_LEVEL, conditions=(Label(10), Image(1)))
    params = random_params(network)
    x, time, labels = inputs()
    image = x[:, ::2, ::2]
    plain = make(channels_in=2, signature={"out_channels": 2}, **ONE_LEVEL)
    assert leaves(network) == leaves(plain)
    expected = run(plain, params, jnp.concatenate([x, resized(image, 8, 8)], -1), time, labels)
    got = run(network, params, x, time, labels, image=image)
    np.testing.assert_allclose(got, expected, atol=1e-6)
