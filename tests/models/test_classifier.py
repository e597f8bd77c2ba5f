from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdiff.config import ClassifierConfig, Label, Signature
from jaxdiff.models.classifier import HEADS
from jaxdiff.models.condition import Dropout
from jaxdiff.models.network import Network
from tests.models.test_unet import inputs, random_params

SMALL = {
    "channels": 32,
    "channel_mult": (1, 2),
    "num_res_blocks": 1,
    "attention_resolutions": (),
    "head_channels": 32,
    "label": Label(10),
}


def make(signature=None, **changes):
    config = ClassifierConfig(**{**SMALL, **changes})
    return Network(config, Signature(shape=(8, 8, 1), out_channels=1, **(signature or {})))


# Compiled once for each network, whatever it is run on.
@partial(jax.jit, static_argnums=0)
def run(network, params, x, time, dropout=None):
    return network.apply(params, x, time, dropout)


@pytest.mark.parametrize(
    ("pool", "dtype"),
    [*((pool, "float32") for pool in HEADS), ("attention", "bfloat16"), ("spatial", "bfloat16")],
)
def test_logits_are_float32_and_depend_on_image_and_time(pool, dtype):
    network = make({"dtype": dtype}, pool=pool)
    params = random_params(network)
    x, time, _ = inputs()
    logits = run(network, params, x, time)
    assert logits.shape == (3, 10)
    assert logits.dtype == jnp.float32
    assert np.abs(run(network, params, x, time + 300) - logits).max() > 1e-4
    assert np.abs(run(network, params, -x, time) - logits).max() > 1e-4


def test_spatial_heads_see_every_block():
    network = make(pool="spatial")
    # Stem, block, down block, block; and the middle.
    assert network.shapes["head"]["hidden"]["kernel"].shape == (32 + 32 + 32 + 64 + 64, 2048)
    assert "norm" not in network.shapes["head"]
    assert "norm" in make(pool="spatial_v2").shapes["head"]


def test_the_attention_head_has_a_position_for_the_mean_and_each_pixel():
    assert make().shapes["head"]["position"].shape == (4 * 4 + 1, 64)
    by_count = make(num_heads=2)
    params = random_params(by_count)
    x, time, _ = inputs()
    a, b, c = (run(make(num_heads=n), params, x, time) for n in (0, 2, 4))
    np.testing.assert_array_equal(a, b)
    assert np.abs(a - c).max() > 1e-5


def test_a_fresh_adaptive_head_returns_zeros():
    head = HEADS["adaptive"](make().config, 8, (), rngs=nnx.Rngs(0))
    assert not np.any(head.out(jnp.ones((3, 64))))


def test_dropout_and_remat_reach_the_encoder():
    # The spatial head sees the encoder most directly.
    network, remat = (
        make({"remat": on}, channel_mult=(1,), pool="spatial") for on in (False, True)
    )
    params = random_params(network)
    x, time, _ = inputs()
    dropout = Dropout(0.2, jax.random.split(jax.random.key(0), 3))
    dropped = run(network, params, x, time, dropout)
    assert np.abs(dropped - run(network, params, x, time)).max() > 1e-4
    scale = float(jnp.abs(dropped).max())
    np.testing.assert_allclose(run(remat, params, x, time, dropout), dropped, atol=1e-5 * scale)
