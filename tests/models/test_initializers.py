import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdiff.config import Label, Signature, UNetConfig
from jaxdiff.models import initializers, network
from jaxdiff.models.initializers import Drawn, Recorded
from jaxdiff.models.network import Network
from jaxdiff.parallel.mesh import make_mesh, parameter_sharding

# Within the smallest draw, beyond it, and too large to be part of a longer one.
SHAPES = ((3,), (2, 5), (), (64, 65), (3, 3, 16, 33), (2, 3), (700, 400), (700, 400))


def fill(rngs):
    """Uniform arrays of all shapes, from keys of which some are left out."""
    found = []
    for number, shape in enumerate(SHAPES):
        rngs.params()
        found.append(initializers.uniform(rngs.params(), shape, 1 / (1 + number)))
    return found


def alone(seed):
    """Each of the arrays from its own key, by JAX alone."""
    key, bounds = jax.random.key(seed), [1 / (1 + n) for n in range(len(SHAPES))]
    keys = [jax.random.fold_in(key, 1 + 2 * n) for n in range(len(SHAPES))]
    draws = zip(keys, SHAPES, bounds, strict=True)
    return [jax.random.uniform(key, shape, minval=-b, maxval=b) for key, shape, b in draws]


@pytest.mark.parametrize("fsdp", [1, 8])
def test_values_drawn_together_are_those_of_each_key(fsdp):
    recorded = Recorded()
    jax.eval_shape(lambda: fill(recorded))

    def draw(key):
        return fill(Drawn(key, recorded.draws))

    mesh = make_mesh(fsdp)
    shardings = parameter_sharding(mesh, jax.eval_shape(draw, jax.random.key(0)))
    together = jax.jit(draw, out_shardings=shardings)(jax.random.key(3))
    for got, expected in zip(together, alone(3), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_a_network_has_the_values_that_flax_s_keys_give(monkeypatch):
    config = UNetConfig(
        channels=32,
        channel_mult=(1, 2),
        num_res_blocks=1,
        attention_resolutions=(4,),
        head_channels=32,
        conditions=(Label(10),),
    )
    own = Network(config, Signature(shape=(8, 8, 1), out_channels=2))
    together = jax.jit(own.init)(jax.random.key(5))
    monkeypatch.setattr(network, "Drawn", lambda key, draws: nnx.Rngs(params=key))
    each = jax.jit(own.init)(jax.random.key(5))
    jax.tree.map(np.testing.assert_array_equal, together, each)
    assert float(jnp.abs(each["labels"]["embedding"]).max()) > 1
