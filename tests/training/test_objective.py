"""Objectives against closed forms, of networks and processes that are written here."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxdiff import factory
from jaxdiff.config import ADM, EDM, Signature, settings
from jaxdiff.diffusion.denoiser import Level
from jaxdiff.models.condition import Condition
from jaxdiff.models.network import Network
from jaxdiff.models.unet import Uncertainty
from jaxdiff.training import augment
from jaxdiff.training.objective import (
    Objective,
    classification,
    denoising,
    objective_of,
    uncertain,
)
from tests import tiny
from tests.training import linear


class Seen:
    """A network and process in one, which keep what they are called with."""

    terms = ("loss",)

    def embed(self, params, cond):
        label = cond["label"].astype(jnp.float32)
        return Condition(vector=(label[:, None] + jnp.ones(2), params * cond["pose"]))

    def null(self, params, cond):
        return jax.tree.map(lambda x: jnp.full_like(x, -7), self.embed(params, cond))

    def apply(self, params, x, time, condition, dropout=None):
        return params, x, time, condition, dropout

    def losses(self, network, x0, condition, draws):
        return network(x0, draws, condition)


def test_dropped_samples_have_the_null_condition_and_all_their_own_keys():
    cond = {"label": jnp.array([0, 1, 2]), "pose": jnp.arange(6.0).reshape(3, 2)}
    examples = {"x0": "x0", "cond": cond, "draws": "draws", "dropout": "keys"}
    drop = jnp.array([False, True, False])
    plain = denoising(Seen(), Seen()).losses(2.0, examples)
    assert plain[:3] == (2.0, "x0", "draws")
    assert plain[4] is None
    np.testing.assert_array_equal(plain[3].vector[1], 2 * cond["pose"])
    dropped = denoising(Seen(), Seen(), rate=0.3).losses(2.0, {**examples, "drop": drop})
    np.testing.assert_array_equal(dropped[3].vector[0], [[1, 1], [-7, -7], [3, 3]])
    np.testing.assert_array_equal(dropped[3].vector[1], [[0, 2], [-7, -7], [8, 10]])
    assert (dropped[4].rate, dropped[4].keys) == (0.3, "keys")


def test_a_network_from_elsewhere_may_have_an_objective_of_its_own():
    @settings
    class Own(linear.LinearConfig):
        def objective(self, network, process):
            return Objective(("loss", "own"), lambda params, examples: None)

    config = linear.config(model=Own())
    assert objective_of(config, None, None).terms == ("loss", "own")


class Fixed:
    """A classifier that answers with given logits."""

    def __init__(self, logits):
        self.logits = jnp.asarray(logits, jnp.float32)

    def apply(self, params, x, time, dropout=None):
        self.seen = x, time
        return self.logits


def test_classification_is_cross_entropy_and_ranks():
    process = factory.process(ADM(num_timesteps=20))
    network = Fixed(np.log([[0.5, 0.3, 0.1, 0.05, 0.03, 0.02]] * 3))
    x0 = jnp.zeros((3, 4, 4, 1))
    examples = {
        "x0": x0,
        "cond": {"kind": jnp.array([0, 1, 5])},
        "draws": {"t": jnp.array([0, 7, 19]), "noise": jnp.ones_like(x0)},
    }
    terms, quartile = classification(network, process, "kind").losses({}, examples)
    np.testing.assert_allclose(terms["loss"], -np.log([0.5, 0.3, 0.02]), rtol=1e-5)
    np.testing.assert_array_equal(terms["top1"], [1, 0, 0])
    np.testing.assert_array_equal(terms["top5"], [1, 1, 0])
    np.testing.assert_array_equal(quartile, [0, 1, 3])
    # What it sees is x_t of the process: with x_0 = 0 and unit noise, sigma_t.
    sigma = process.levels().sigma[[19, 12, 0]]
    np.testing.assert_allclose(network.seen[0][:, 0, 0, 0], sigma, rtol=1e-5)
    np.testing.assert_array_equal(network.seen[1], [0, 7, 19])


def test_at_first_learned_weights_leave_the_loss_as_it_is():
    config = tiny.config(diffusion=EDM(uncertainty=True))
    network = factory.network(config)
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), network.shapes)
    params["head"] = jax.jit(lambda key: network.init(key)["head"])(jax.random.key(0))
    loss = jnp.array([0.1, 2.0, 3.0])
    fixed = Objective(("loss",), lambda params, examples: ({"loss": loss}, None))
    objective = uncertain(fixed, network)
    draws = {"sigma": jnp.array([0.01, 1.0, 50.0])}
    terms, _ = objective.losses(params, {"draws": draws})
    assert objective.terms == ("loss", "weighted")
    np.testing.assert_array_equal(terms["loss"], loss)
    np.testing.assert_array_equal(terms["weighted"], loss)


@settings
class HeadConfig:
    """A network that is nothing but the head."""

    def build(self, signature, rngs):
        class Alone(nnx.Module):
            def __init__(self):
                self.head = Uncertainty(rngs)

            def uncertainty(self, time):
                return self.head(time)

        return Alone()


def test_the_head_learns_the_logarithm_of_the_error():
    """The loss e^-u w + u is least where e^u is the mean of w, at every noise level."""
    sigma = jnp.geomspace(0.01, 20, 64)
    # Errors of two sizes at each level, whose mean grows with it from .1 to 4.5.
    error = sigma**0.5 * jnp.array([0.2, 1.8])[:, None]
    network = Network(HeadConfig(), Signature(shape=(1,), out_channels=1))
    fixed = Objective(("loss",), lambda params, e: ({"loss": e["error"]}, None))
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


def test_sampling_leaves_out_the_head():
    config = tiny.config(diffusion=EDM(uncertainty=True))
    network, process = factory.network(config), factory.process(config.diffusion)

    def denoise(params, x, sigma):
        condition = network.embed(params, {"label": jnp.zeros(2, jnp.int32)})
        denoiser = process.denoiser(lambda *args: network.apply(params, *args))
        return denoiser(x, Level(jnp.ones(2), sigma), condition).x0

    arguments = (network.shapes, jnp.ones((2, 8, 8, 1)), jnp.array([0.1, 5.0]))
    # Arguments that nothing depends on are not among those of the compiled program.
    text = jax.jit(denoise).lower(*arguments).as_text()
    (signature,) = [line for line in text.splitlines() if "@main(" in line]
    assert signature.count("%arg") == len(jax.tree.leaves(arguments)) - 2
    assert network.shapes["head"]["out"]["kernel"].shape == (128, 1)


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_crops_are_enlarged_parts_of_the_image(dtype):
    ramp = np.linspace(0, 255, 32).astype(dtype)
    x = jnp.broadcast_to(ramp[None, None, :, None], (200, 32, 32, 1))
    image, half = augment.augmented("crop_flip", jax.random.key(0), [x, x[:, ::2, ::2]])
    assert image.dtype == half.dtype == dtype
    row = np.asarray(image[:, 16, :, 0], np.float64)
    share = np.abs(row[:, -5] - row[:, 4]) / (ramp[-5] - np.float64(ramp[4]))
    # A part of share s, enlarged by 1/s, has slopes of s; inside the image they are even.
    assert 0.79 < share.min() < 0.83
    assert 0.97 < share.max() < 1.01
    even = row[:, 4:5] + np.linspace(0, 1, 24) * (row[:, -5:-4] - row[:, 4:5])
    np.testing.assert_allclose(row[:, 4:-4], even, atol=9 if dtype == np.uint8 else 0.1)
    # Both are cropped at the same place, and flipped together.
    middle = np.asarray(half[:, 8, :, 0], np.float64).mean(1)
    np.testing.assert_allclose(middle, row.mean(1), atol=8)
    mirrored = row[:, 0] > row[:, -1]
    assert 60 < mirrored.sum() < 140
