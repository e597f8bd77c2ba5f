"""A classifier's last hidden layer as features of images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import factory
from jaxdiff.data.source import open_split
from jaxdiff.evaluation.extractors import open_extractor
from tests import runs

pytestmark = pytest.mark.usefixtures("alone")


@pytest.mark.parametrize("pool", ["attention", "adaptive", "spatial", "spatial_v2"])
def test_the_logits_are_linear_in_the_features(pool):
    network = factory.network(runs.classifier(pool))
    params = runs.random_params(network, seed=1)
    x, time = jax.random.normal(jax.random.key(0), (3, 8, 8, 1)), jnp.zeros(3)
    out = params["head"]["out"]
    logits = network.features(params, x, time) @ out["kernel"] + out["bias"]
    np.testing.assert_allclose(logits, network.apply(params, x, time), rtol=1e-4, atol=1e-4)


def test_features_are_those_of_clean_images_at_time_0(tmp_path):
    config = runs.classifier()
    images = open_split(config.data, "test", ()).fetch(np.arange(3))["x"]
    network = factory.network(config)
    params = runs.random_params(network, seed=10)  # make_run's, of its last step
    expected = network.features(params, jnp.float32(images) / 127.5 - 1, jnp.zeros(3))
    extractor = open_extractor(runs.make_run(tmp_path / "classifier", config))
    np.testing.assert_allclose(extractor(images)["features"], expected, rtol=1e-4, atol=1e-5)
