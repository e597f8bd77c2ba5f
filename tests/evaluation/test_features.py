import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import factory
from jaxdiff.data.source import open_split
from jaxdiff.errors import UserError
from jaxdiff.evaluation.features import open_features, real_moments
from jaxdiff.evaluation.metrics.frechet import Moments
from tests import runs, tiny

pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture(scope="module")
def seen(alone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "classifier"
    return open_features(runs.make_run(folder, runs.classifier()))


@pytest.mark.parametrize("pool", ["attention", "adaptive", "spatial", "spatial_v2"])
def test_the_logits_are_linear_in_the_features(pool):
    network = factory.network(runs.classifier(pool))
    params = runs.random_params(network, seed=1)
    x, time = jax.random.normal(jax.random.key(0), (3, 8, 8, 1)), jnp.zeros(3)
    out = params["head"]["out"]
    logits = network.features(params, x, time) @ out["kernel"] + out["bias"]
    np.testing.assert_allclose(logits, network.apply(params, x, time), rtol=1e-4, atol=1e-4)


def test_features_are_those_of_clean_images_at_time_0(seen):
    config = runs.classifier()
    images = open_split(config.data, "test", ()).fetch(np.arange(3))["x"]
    network = factory.network(config)
    params = runs.random_params(network, seed=10)  # make_run's, of its last step
    expected = network.features(params, jnp.float32(images) / 127.5 - 1, jnp.zeros(3))
    np.testing.assert_allclose(seen(images), expected, rtol=1e-4, atol=1e-5)


def test_real_moments_are_computed_once(seen):
    config = tiny.config()
    moments = real_moments(seen, config, "test")
    expected = Moments.of(seen(open_split(config.data, "test", ()).all()["x"]))
    np.testing.assert_allclose(moments.covariance, expected.covariance, atol=1e-9)
    blind = dataclasses.replace(seen, extract=None)
    np.testing.assert_array_equal(real_moments(blind, config, "test").mean, moments.mean)
    with pytest.raises(TypeError):  # those of another split are others
        real_moments(blind, config, "train")
    for file in seen.folder.iterdir():
        file.write_bytes(b"corrupt")
    np.testing.assert_array_equal(moments.mean, real_moments(seen, config, "test").mean)


def test_images_of_another_shape_are_refused(seen):
    with pytest.raises(UserError, match=r"\(8, 8, 1\).*\(16, 16, 1\)"):
        real_moments(seen, tiny.config(data__image_size=16))


def test_moments_that_cannot_be_kept_are_computed_all_the_same(seen, capsys):
    place = seen.folder.parent / "a file"
    place.write_text("in the way")
    moments = real_moments(dataclasses.replace(seen, folder=place), tiny.config(), "test")
    assert "not kept" in capsys.readouterr().out
    np.testing.assert_array_equal(moments.mean, real_moments(seen, tiny.config(), "test").mean)
