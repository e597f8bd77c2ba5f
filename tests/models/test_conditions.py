"""Conditions of a UNet: what embed and null return, and that each reaches the output."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.config import Image, Label, Signature, UNetConfig, Vector
from jaxdiff.models.codecs import Pixels
from jaxdiff.models.network import Network
from tests.models.test_unet import random_params

CONDITIONS = (
    Label(10),
    Image(2),
    Vector(5),
    Label(3, name="style"),
    Image(1, name="edges"),
    Vector(2, name="pose"),
)
CONFIG = UNetConfig(
    channels=32,
    channel_mult=(1,),
    num_res_blocks=1,
    attention_resolutions=(),
    head_channels=32,
    conditions=CONDITIONS,
)
NETWORK = Network(CONFIG, Signature(shape=(8, 8, 1), out_channels=1, null=True))
RANDOM = np.random.RandomState(0)
COND = {
    "label": jnp.array([0, 9, 3]),
    "style": jnp.array([2, 0, 1]),
    "vector": jnp.asarray(RANDOM.standard_normal((3, 5)), jnp.float32),
    "pose": jnp.asarray(RANDOM.standard_normal((3, 2)), jnp.float32),
    "image": jnp.asarray(RANDOM.uniform(-1, 1, (3, 4, 4, 2)), jnp.float32),
    "edges": jnp.asarray(RANDOM.uniform(-1, 1, (3, 8, 8, 1)), jnp.float32),
}
X = jnp.asarray(RANDOM.standard_normal((3, 8, 8, 1)), jnp.float32)


@pytest.fixture(scope="module")
def params():
    return random_params(NETWORK)


@jax.jit
def run(params, condition):
    return NETWORK.apply(params, X, jnp.arange(3.0), condition)


embed = jax.jit(NETWORK.embed)


def silu(x):
    return x / (1 + np.exp(-x))


def test_labels_are_rows_of_one_table_and_vectors_go_through_two_layers(params):
    table = np.asarray(params["labels"]["embedding"])
    assert table.shape == (10 + 1 + 3 + 1, 128)
    got = embed(params, COND)
    label, style, vector, pose = got.vector
    np.testing.assert_array_equal(label, table[[0, 9, 3]])
    np.testing.assert_array_equal(style, table[[11 + 2, 11 + 0, 11 + 1]])
    for found, embedder, name in ((vector, "0", "vector"), (pose, "1", "pose")):
        hidden, out = (params["vectors"][embedder][layer] for layer in ("hidden", "out"))
        h = silu(np.asarray(COND[name]) @ np.asarray(hidden["kernel"]) + hidden["bias"])
        np.testing.assert_allclose(found, h @ np.asarray(out["kernel"]) + out["bias"], atol=1e-5)
    for found, name in zip(got.image, ("image", "edges"), strict=True):
        np.testing.assert_array_equal(found, COND[name])


def test_the_null_condition_is_learned_for_labels_and_vectors_and_zeros_for_images(params):
    null = jax.jit(NETWORK.null)(params, COND)
    assert jax.tree.map(np.shape, null) == jax.tree.map(np.shape, embed(params, COND))
    table = params["labels"]["embedding"]
    learned = [table[10], table[14], *(params["vectors"][n]["unknown"] for n in "01")]
    for found, row in zip(null.vector, learned, strict=True):
        np.testing.assert_array_equal(found, np.tile(row, (3, 1)))
    assert not any(np.any(image) for image in null.image)


def test_every_condition_reaches_the_output_of_its_own_sample_alone(params):
    base = run(params, embed(params, COND))
    for name, array in COND.items():
        changed = {**COND, name: array.at[1].set(array[0] + jnp.ones((), array.dtype))}
        difference = np.abs(run(params, embed(params, changed)) - base).max((1, 2, 3))
        assert difference[1] > 1e-4, name
        np.testing.assert_array_equal(difference[[0, 2]], 0, err_msg=name)


def test_the_network_adds_vectors_and_concatenates_images_whatever_their_number(params):
    condition = embed(params, COND)
    summed = jax.tree.map(lambda a: a, condition)
    total = sum(condition.vector)
    edges = jnp.asarray(condition.image[1])
    enlarged = jax.image.resize(condition.image[0], (3, 8, 8, 2), "bilinear")
    joined = jnp.concatenate([enlarged, edges], -1)
    alone = type(summed)(vector=total, image=joined)
    np.testing.assert_allclose(run(params, alone), run(params, condition), atol=2e-5)


def test_gradients_of_dropped_samples_go_to_the_null_condition(params):
    """As training mixes them: where(drop, null, embedding)."""
    drop = jnp.array([True, False, True])

    @jax.jit
    @jax.grad
    def gradient(params):
        null, condition = NETWORK.null(params, COND), NETWORK.embed(params, COND)
        mixed = jax.tree.map(
            lambda n, c: jnp.where(drop.reshape(-1, *[1] * (c.ndim - 1)), n, c), null, condition
        )
        return (NETWORK.apply(params, X, jnp.arange(3.0), mixed) ** 2).sum()

    found = gradient(params)
    rows = np.flatnonzero(np.abs(found["labels"]["embedding"]).sum(1))
    np.testing.assert_array_equal(rows, [9, 10, 11 + 0, 14])  # of sample 1, and both null rows
    for n in "01":
        assert np.abs(found["vectors"][n]["unknown"]).max() > 1e-4


def test_a_network_kind_from_elsewhere_builds_itself():
    """Its settings are any hashable class with `build`."""
    from flax import nnx

    class Doubling(nnx.Module):
        def __init__(self):
            self.gain = nnx.Param(jnp.full((), 2.0))

        def __call__(self, x, time, condition, dropout=None):
            return self.gain[...] * x

        @staticmethod
        def constrain(params):
            return jax.tree.map(lambda leaf: jnp.minimum(leaf, 2.0), params)

    class Settings:
        def build(self, signature, rngs):
            return Doubling()

    network = Network(Settings(), Signature(shape=(2,), out_channels=2))
    params = network.init(jax.random.key(0))
    assert params == {"gain": 2.0}
    np.testing.assert_array_equal(network.apply(params, X, None, None), 2 * X)
    assert network.constrain({"gain": jnp.float32(3.0)}) == {"gain": 2.0}
    assert NETWORK.constrain(params) is params


@partial(jax.jit, static_argnums=0)
def coded(codec, images):
    x = codec.encode(images)
    return x, codec.decode(x)


def test_pixels_return_every_byte_and_clip_what_is_outside():
    images = jnp.arange(256, dtype=jnp.uint8).reshape(1, 16, 16, 1)
    x, back = coded(Pixels(), images)
    np.testing.assert_allclose(x.ravel(), np.arange(256) / 127.5 - 1, atol=1e-6)
    assert x.dtype == jnp.float32
    np.testing.assert_array_equal(back, images)
    assert back.dtype == jnp.uint8
    np.testing.assert_array_equal(Pixels().decode(jnp.array([-3.0, 0.0039, 7.0])), [0, 128, 255])
    np.testing.assert_array_equal(Pixels().encode(x), x)
