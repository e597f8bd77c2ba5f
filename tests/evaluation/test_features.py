import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import factory
from jaxdiff.data.images import to_float
from jaxdiff.data.source import open_split
from jaxdiff.errors import UserError
from jaxdiff.evaluation.features import open_features, real_moments
from jaxdiff.evaluation.frechet import Moments
from tests import tiny
from tests.models.test_unet import random_params
from tests.sampling.test_job import make_run

pytestmark = pytest.mark.usefixtures("alone")

KIND = {"model__kind": "classifier", "diffusion__label_dropout": 0.0}


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "classifier", tiny.config(**KIND))


@pytest.mark.parametrize("pool", ["attention", "adaptive", "spatial", "spatial_v2"])
def test_the_logits_are_linear_in_the_features(pool):
    network = factory.network(tiny.config(model__pool=pool, **KIND))
    params = random_params(network, seed=1)
    x, time = jax.random.normal(jax.random.key(0), (3, 8, 8, 1)), jnp.zeros(3)
    out = params["head"]["out"]
    features = network.features(params, x, time)
    logits = features @ out["kernel"] + out["bias"]
    np.testing.assert_allclose(logits, network.apply(params, x, time), rtol=1e-4, atol=1e-4)


def test_features_are_those_of_clean_images_at_time_0(classifier):
    seen, config = open_features(classifier), tiny.config(**KIND)
    images = open_split(config.data, "test").fetch(np.arange(3))["image"]
    network = factory.network(config)
    params = random_params(network, seed=10)  # make_run's, of its last step
    expected = network.features(params, to_float(images), jnp.zeros(3))
    np.testing.assert_allclose(seen(images), expected, rtol=1e-4, atol=1e-5)


def test_real_moments_are_computed_once(classifier):
    seen, data = open_features(classifier), tiny.config().data
    moments = real_moments(seen, data, "test")
    expected = Moments.of(seen(open_split(data, "test").all()["image"]))
    np.testing.assert_allclose(moments.covariance, expected.covariance, atol=1e-9)
    blind = dataclasses.replace(seen, extract=None)
    np.testing.assert_array_equal(real_moments(blind, data, "test").mean, moments.mean)
    with pytest.raises(TypeError):  # those of another split are others
        real_moments(blind, data, "train")


def test_images_of_another_shape_are_refused(classifier):
    data = tiny.config(data__image_size=16).data
    with pytest.raises(UserError, match=r"sees images of \(8, 8, 1\), and the model's are \(16"):
        real_moments(open_features(classifier), data)


def test_moments_that_cannot_be_kept_are_computed_all_the_same(classifier, capsys):
    seen, data = open_features(classifier), tiny.config().data
    place = seen.folder.parent / "a file"
    place.write_text("in the way")
    moments = real_moments(dataclasses.replace(seen, folder=place), data, "test")
    assert "are not kept, as" in capsys.readouterr().out
    np.testing.assert_array_equal(moments.mean, real_moments(seen, data, "test").mean)
    for file in seen.folder.iterdir():
        file.write_bytes(b"damaged")
    np.testing.assert_array_equal(moments.mean, real_moments(seen, data, "test").mean)
