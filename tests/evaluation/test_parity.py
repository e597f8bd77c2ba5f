"""Feature networks, resizes and metrics beside the reference implementations'.

The folder of golden values is tests/goldens, or the one that JAXDIFF_GOLDENS names. Every case that
it holds is compared, by its format (tests/goldens/README.md).
"""

import os
import re

import numpy as np
import pytest

from jaxdiff.evaluation.metrics.frechet import Moments
from jaxdiff.evaluation.networks import dinov2, sscd
from tests import golden_format
from tests.evaluation import parity_metrics
from tests.evaluation.parity_metrics import EXACT, KEYS
from tests.evaluation.parity_networks import CASES, INPUTS, assert_close, computed

# Numbers in the public files, by name.
NUMBERS = {
    "vits14": (175, 22_056_576),
    "vitb14": (175, 86_580_480),
    "vitl14": (343, 304_368_640),
    "vitg14": (567, 1_136_480_768),
}


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_network(kind, name):
    got, expected = computed(kind, name)
    _, arrays = golden_format.load(name)
    rest = [key for key in arrays if key not in expected and not re.fullmatch(INPUTS, key)]
    assert expected
    assert not rest or "JAXDIFF_GOLDENS" in os.environ
    assert_close(got, expected)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_a_value_that_is_off_by_two_percent_is_noticed(kind, name):
    got, expected = computed(kind, name)
    for key, array in expected.items():
        spoilt = array.astype(np.float64)
        place = spoilt.size // 3
        change = 0.02 * np.abs(spoilt).max()
        spoilt.flat[place] += -change if spoilt.flat[place] > change else change
        spoilt = spoilt.astype(array.dtype)
        with pytest.raises(AssertionError, match=key):
            assert_close(got, {**expected, key: spoilt})


@pytest.mark.parametrize(("name", "key"), KEYS)
def test_values_are_the_peers(name, key):
    got, stored, tolerance = parity_metrics.computed(name, key)
    np.testing.assert_allclose(got, stored, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("name", "key"), KEYS)
def test_a_value_spoilt_by_two_percent_is_noticed(name, key):
    got, stored, tolerance = parity_metrics.computed(name, key)
    spoilt = stored.copy()
    spoilt.flat[-1] *= 1.02
    if "with_itself" not in key and stored.flat[-1]:
        assert np.abs(got - spoilt).max() > tolerance


@pytest.mark.parametrize("name", parity_metrics.CASES)
def test_moments_are_pytorch_fids(name):
    _, arrays = golden_format.load(name)
    moments = Moments.of(arrays["real"])
    for got, stored in (
        (moments.mean, arrays["frechet_real_mu"]),
        (moments.covariance, arrays["frechet_real_sigma"]),
    ):
        assert golden_format.error(got, stored) < EXACT
        stored[0] *= 1.02
        assert golden_format.error(got, stored) > EXACT


@pytest.mark.parametrize("size", NUMBERS)
def test_dinov2_has_as_many_parameters_as_its_files(size):
    tensors, numbers = NUMBERS[size]
    width = dinov2.SIZES[size].width
    for name, more in ((size, 0), (f"{size}-reg4", 4 * width)):
        shapes = dinov2.network(dinov2.SIZES[name]).shapes
        assert len(shapes) == tensors + bool(more)
        assert sum(int(np.prod(shape)) for shape in shapes.values()) == numbers + more


def test_sscd_has_as_many_parameters_as_its_file():
    shapes = {k: v for k, v in sscd.SSCD.shapes.items() if "running" not in k}
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 24_557_120


@pytest.mark.parametrize(("antialias", "offset"), [(False, 0.1), (True, 0.0)])
def test_positions_of_images_as_the_network_was_trained_with_are_those_it_learned(
    antialias, offset
):
    config = dinov2.Dinov2Config(8, 1, 1, antialias=antialias, offset=offset, image_size=42)
    network = dinov2.network(config)
    params = network.params(golden_format.seeded_like(network.shapes, 1))
    np.testing.assert_array_equal(network.module(params).positions(3, 3), params["pos_embed"])
