import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.config import Signature
from jaxdiff.models.network import Network
from studies.toy.kinds import ToyNetwork
from studies.toy.network import SILU_SCALE, normalized


def network(**fields):
    return Network(ToyNetwork(channels=32, **fields), Signature(shape=(2,), out_channels=2))


@pytest.fixture(scope="module")
def params():
    return {**network().init(jax.random.key(0)), "gain": jnp.float32(0.7)}


def inputs(count=5):
    random = np.random.default_rng(0)
    return random.standard_normal((count, 2)).astype(np.float32), np.linspace(-1.5, 0.4, count)


def test_it_starts_with_the_gain_that_its_config_states():
    x, time = inputs()
    params = network().init(jax.random.key(0))
    assert (network().apply(params, x, time) < 0).all()
    nothing = network(initial_gain=0.0)
    assert not nothing.apply(nothing.init(jax.random.key(0)), x, time).any()
    shapes = [params["layers"][str(n)]["kernel"].shape for n in range(5)]
    assert shapes == [(4, 32)] + 4 * [(32, 32)]


@pytest.mark.parametrize("final_silu", [False, True])
def test_it_computes_what_the_paper_says(params, final_silu):
    x, time = inputs()
    y = np.concatenate([x, time[:, None], np.ones((5, 1))], 1)
    for n in range(5):
        rows = np.asarray(params["layers"][str(n)]["kernel"], np.float64).T
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        y = y @ rows.T
        if n < 4 or final_silu:
            y = y / (1 + np.exp(-y)) / 0.596
    expected = 0.7 * (y**2).mean(1)
    found = network(final_silu=final_silu).apply(params, x, time)
    np.testing.assert_allclose(found, expected, rtol=3e-3)


def test_the_scale_of_silu_keeps_the_magnitude():
    z = np.random.default_rng(0).standard_normal(10**6)
    assert abs(np.sqrt(np.mean((z / (1 + np.exp(-z))) ** 2)) - SILU_SCALE) < 2e-3


def test_constrained_rows_have_the_magnitude_that_they_start_with(params):
    grown = jax.tree.map(lambda leaf: 3 * leaf, params)
    held = network().constrain(grown)
    assert held["gain"] == grown["gain"]
    for layer in held["layers"].values():
        np.testing.assert_allclose((layer["kernel"] ** 2).mean(0), 1, rtol=1e-3)
    x, time = inputs()
    np.testing.assert_allclose(
        network().apply({**held, "gain": jnp.float32(1)}, x, time),
        network().apply({**params, "gain": jnp.float32(1)}, x, time),
        rtol=3e-3,
    )
    assert np.isfinite(normalized(jnp.zeros((3, 3)))).all()
