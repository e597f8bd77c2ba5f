import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import factory
from jaxdiff.training import augment
from jaxdiff.training.objective import classification
from tests import tiny


class Fixed:
    """A network that answers with given logits, whatever it sees."""

    def __init__(self, logits):
        self.logits = jnp.asarray(logits, jnp.float32)

    def constrain(self, params):
        return params

    def apply(self, params, x, time, **kwargs):
        self.seen = x, time
        return self.logits


def test_classification_is_cross_entropy_and_ranks():
    process = factory.process(tiny.config())
    logits = np.log([[0.5, 0.3, 0.1, 0.05, 0.03, 0.02]] * 3)
    network = Fixed(logits)
    x0 = jnp.zeros((3, 4, 4, 1))
    examples = {
        "x0": x0,
        "label": jnp.array([0, 1, 5]),
        "draws": {"t": jnp.array([0, 7, 19]), "noise": jnp.ones_like(x0)},
        "dropout": None,
    }
    terms, quartile = classification(network, process, 0.0).losses({}, examples)
    np.testing.assert_allclose(terms["loss"], -np.log([0.5, 0.3, 0.02]), rtol=1e-5)
    np.testing.assert_array_equal(terms["top1"], [1, 0, 0])
    np.testing.assert_array_equal(terms["top5"], [1, 1, 0])
    np.testing.assert_array_equal(quartile, [0, 1, 3])
    # What it sees is x_t of the process: with x_0 = 0 and unit noise, sigma_t.
    sigma = process.levels("").sigma[[19, 12, 0]]
    np.testing.assert_allclose(network.seen[0][:, 0, 0, 0], sigma, rtol=1e-5)
    np.testing.assert_array_equal(network.seen[1], [0, 7, 19])


def test_crops_are_enlarged_parts_of_the_image():
    ramp = jnp.linspace(-1, 1, 32)
    x = jnp.broadcast_to(ramp[None, None, :, None], (200, 32, 32, 1))
    cropped = augment.crop(jax.random.key(0), x)
    slope = np.diff(cropped[:, 16, 4:-4, 0], axis=1) / np.diff(ramp)[0]
    share = slope.mean(1)
    # A part of share s, enlarged by 1/s, has slopes of s; inside the image they are even.
    np.testing.assert_allclose(slope, share[:, None] * np.ones((1, slope.shape[1])), atol=2e-3)
    assert 0.799 < share.min() < 0.83
    assert 0.97 < share.max() < 1.001
    np.testing.assert_array_less(np.abs(cropped), 1.0001)


def test_area_downsampling_takes_means_of_squares():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_allclose(
        augment.area_downsample(x, 2)[0, :, :, 0], [[2.5, 4.5], [10.5, 12.5]]
    )


@pytest.mark.parametrize("pool", ["attention", "spatial_v2"])
def test_a_classifier_s_network_is_built_from_a_config(pool):
    config = tiny.config(model__kind="classifier", model__pool=pool, diffusion__label_dropout=0.0)
    network = factory.network(config)
    x = jnp.zeros((2, 8, 8, 1))
    logits = jax.eval_shape(network.apply, network.shapes, x, jnp.zeros(2))
    assert logits.shape == (2, 10)
