"""The reference implementation's values for whole networks, stored in tests/goldens.

Another folder in the same format, named by the environment variable JAXDIFF_GOLDENS, is tested
instead of it.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.interop import openai, torch_file
from tests import golden_format

# Largest difference allowed, in units of the largest reference value.
TOLERANCE = {"output": 1e-5, "logits": 1e-5, "grad_log_prob": 2e-5}
IMPORTERS = {
    "UNetModel": openai.unet,
    "SuperResModel": openai.superres,
    "EncoderUNetModel": openai.classifier,
}
NETWORKS = {
    "UNetModel": openai.unet_network,
    "SuperResModel": lambda **options: openai.unet_network(super_resolution=True, **options),
    "EncoderUNetModel": openai.classifier_network,
}
CASES = golden_format.names("unet_*", "superres*", "classifier_*")


@cache
def computed(name):
    """What we compute for a case, and what is stored: {key: array} each, images [N, H, W, C]."""
    case, arrays = golden_format.load(name)
    images = {key: golden_format.nhwc(a) if a.ndim == 4 else a for key, a in arrays.items()}
    x, time, labels = images["x"], images["timesteps"], images["labels"]
    state_dict = golden_format.seeded(case["state_dict"])
    apply, params = IMPORTERS[case["constructor"]](state_dict, **case["kwargs"])
    if case["constructor"] != "EncoderUNetModel":
        low_res = {"low_res": images["low_res"]} if "low_res" in images else {}
        return {"output": jax.jit(apply)(params, x, time, labels, **low_res)}, images

    def log_prob(x):
        logits = apply(params, x, time)
        return jax.nn.log_softmax(logits)[jnp.arange(len(x)), labels].sum(), logits

    gradient, logits = jax.jit(jax.grad(log_prob, has_aux=True))(x)
    return {"logits": logits, "grad_log_prob": gradient}, images


def assert_close(got, expected):
    for key, array in got.items():
        assert array.dtype == jnp.float32
        assert golden_format.error(array, expected[key]) <= TOLERANCE[key], key


@pytest.mark.parametrize("name", CASES)
def test_network(name):
    assert_close(*computed(name))


@pytest.mark.parametrize("name", CASES)
def test_a_value_that_is_off_by_two_percent_is_noticed(name):
    got, expected = computed(name)
    for key in got:
        spoilt = expected[key].copy()
        spoilt.flat[spoilt.size // 3] += 0.02 * np.abs(spoilt).max()
        with pytest.raises(AssertionError, match=key):
            assert_close(got, {**expected, key: spoilt})


@pytest.mark.parametrize("name", CASES)
def test_export_returns_what_was_imported(name):
    case, _ = golden_format.load(name)
    network = NETWORKS[case["constructor"]](**case["kwargs"])
    state_dict = golden_format.seeded(case["state_dict"])
    order = {"new_order": case["kwargs"].get("use_new_attention_order", False)}
    params = openai.from_state_dict(network, state_dict, **order)
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, network.shapes)
    exported = openai.to_state_dict(network, params, **order)
    assert exported.keys() == state_dict.keys()
    for key, array in state_dict.items():
        np.testing.assert_array_equal(exported[key], array, strict=True)


@pytest.mark.parametrize("path", sorted(golden_format.FOLDER.glob("*.pt")), ids=lambda p: p.name)
def test_pytorch_s_files_hold_the_seeded_weights(path):
    case, _ = golden_format.load(path.stem)
    state_dict = torch_file.read(path)
    expected = golden_format.seeded(case["state_dict"])
    assert list(state_dict) == list(expected)
    for key, array in expected.items():
        np.testing.assert_array_equal(state_dict[key], array, strict=True)
