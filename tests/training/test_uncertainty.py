"""EDM2's learned weights of the noise levels: the loss, and the head that sampling leaves out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxdiff import config as config_lib
from jaxdiff import factory
from jaxdiff.diffusion.denoiser import Condition, Level
from jaxdiff.errors import UserError
from jaxdiff.models.network import Network
from jaxdiff.models.unet import Uncertainty
from jaxdiff.sampling.trained_model import applied
from jaxdiff.training.objective import Objective, denoising, of_config, uncertain
from tests import tiny
from tests.models.test_unet import random_params

EDM = {"diffusion__process": "edm", "diffusion__label_dropout": 0.0}


@pytest.fixture(scope="module")
def pair():
    """(network, process, objective) with the head, and the plain objective's."""
    config = tiny.config(**EDM, diffusion__uncertainty=True)
    config_lib.validate(config)
    network, process = factory.network(config), factory.process(config)
    return (
        network,
        process,
        of_config(config, network, process),
        factory.network(tiny.config(**EDM)),
    )


def without_head(params):
    return {name: part for name, part in params.items() if name != "head"}


def test_at_first_it_is_the_plain_loss(pair):
    network, process, objective, plain_network = pair
    plain = denoising(plain_network, process, 0.0)
    x0 = jax.random.normal(jax.random.key(1), (4, 8, 8, 1))
    draws = process.draw(jax.random.key(2), x0.shape)
    examples = {"x0": x0, "label": jnp.arange(4), "draws": draws, "dropout": None}

    @jax.jit
    def both(key):
        params, plain_params = network.init(key), plain_network.init(key)
        losses = objective.losses(params, examples), plain.losses(plain_params, examples)
        return without_head(params), plain_params, *losses

    params, plain_params, (terms, quartile), (expected, plain_quartile) = both(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, params, plain_params)
    assert objective.terms == ("loss", "weighted")
    np.testing.assert_array_equal(terms["loss"], terms["weighted"])
    np.testing.assert_array_equal(terms["loss"], expected["loss"])
    np.testing.assert_array_equal(quartile, plain_quartile)


def test_the_head_learns_the_logarithm_of_the_error():
    """The loss e^-u w + u is least where e^u is the mean of w, at every noise level."""
    sigma = jnp.geomspace(0.01, 20, 64)
    # Errors of two sizes at each level, whose mean grows with it from .1 to 4.5.
    error = sigma**0.5 * jnp.array([0.2, 1.8])[:, None]

    class Alone(nnx.Module):
        def __init__(self, rngs):
            self.head = Uncertainty(rngs)

        def uncertainty(self, time):
            return self.head(time)

    network = Network(Alone, None)
    fixed = Objective(("loss",), lambda params, e: ({"loss": e["error"]}, None), None)
    objective = uncertain(fixed, network)

    def mean_loss(params):
        examples = [{"error": row, "draws": {"sigma": sigma}} for row in error]
        return sum(objective.losses(params, e)[0]["loss"].mean() for e in examples) / 2

    optimizer = optax.adam(0.01)

    @jax.jit
    def train(params):
        def step(carry, _):
            params, state = carry
            updates, state = optimizer.update(jax.grad(mean_loss)(params), state)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), length=500)[0][0]

    params = train(network.init(jax.random.key(0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 129
    learned = jnp.exp(network.uncertainty(params, jnp.log(sigma) / 4))
    np.testing.assert_allclose(learned, error.mean(0), rtol=0.1)


def test_sampling_drops_the_head(pair):
    network, process, _, _ = pair
    params = random_params(network)

    def denoise(params, x, sigma):
        condition = Condition(network.embed(params, jnp.zeros(2, jnp.int32)))
        denoiser = process.denoiser(applied(network, params))
        return denoiser(x, Level(jnp.ones(2), sigma), condition).x0

    arguments = (params, jnp.ones((2, 8, 8, 1)), jnp.array([0.1, 5.0]))
    # Arguments that nothing depends on are not among those of the compiled program.
    text = jax.jit(denoise).lower(*arguments).as_text()
    (signature,) = [line for line in text.splitlines() if "@main(" in line]
    assert signature.count("%arg") == len(jax.tree.leaves(arguments)) - 2
    assert params["head"]["out"]["kernel"].shape == (128, 1)


@pytest.mark.parametrize(
    "fields",
    [{}, {"model__kind": "classifier", "diffusion__label_dropout": 0.0}],
    ids=["adm", "classifier"],
)
def test_it_is_for_edm_alone(fields):
    with pytest.raises(UserError, match="the process is adm: set diffusion.process to edm"):
        config_lib.validate(tiny.config(diffusion__uncertainty=True, **fields))


def test_a_standard_deviation_that_was_not_measured_is_refused():
    with pytest.raises(UserError, match="train it first"):
        factory.process(tiny.config(diffusion__process="edm", diffusion__data_std=0.0))
