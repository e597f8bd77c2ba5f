"""Import and export of released checkpoints: what is refused, and what that names."""

import dataclasses

import jax
import ml_dtypes
import numpy as np
import pytest

from jaxdiff.config import Label, UNetConfig, Vector
from jaxdiff.errors import UserError
from jaxdiff.interop import openai
from jaxdiff.models.network import Network
from tests import golden_format


@pytest.fixture(scope="module")
def adm():
    case, _ = golden_format.load("unet_adm")
    return golden_format.seeded(case["state_dict"]), case["kwargs"]


def refusal(importer, state_dict, options):
    with pytest.raises(UserError) as caught:
        importer(state_dict, **options)
    sentence = str(caught.value)
    assert len(sentence) < 1000
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize(
    ("changes", "tensor"),
    [
        ({"model_channels": 64}, "time_embed.0.weight is [128, 32] and not [256, 64]"),
        ({"out_channels": 3}, "out.2.weight"),
        ({"num_classes": None}, "label_emb.weight is unexpected"),
        ({"num_res_blocks": 2}, "is missing"),
        ({"attention_resolutions": [1, 2]}, "qkv.weight is missing"),
        ({"resblock_updown": False}, ".op.weight is missing"),
        ({"use_scale_shift_norm": False}, "emb_layers.1.weight"),
    ],
)
def test_a_state_dict_of_other_options_is_refused_by_its_tensors(adm, changes, tensor):
    state_dict, options = adm
    assert tensor in refusal(openai.unet, state_dict, {**options, **changes})


def test_a_few_tensors_are_named_whatever_is_wrong(adm):
    state_dict, options = adm
    other = {**state_dict, "ema.decay": np.zeros(()), "out.0.weight": np.zeros(7)}
    del other["out.0.bias"]
    sentence = refusal(openai.unet, other, options)
    for words in ("out.0.bias is missing", "ema.decay", "out.0.weight is [7] and not [32]"):
        assert words in sentence
    sentence = refusal(openai.unet, {}, options)
    assert sentence.count("is missing") == 5
    case, _ = golden_format.load("classifier_attention")
    refusal(openai.unet, golden_format.seeded(case["state_dict"]), options)
    refusal(openai.classifier, state_dict, case["kwargs"])


def test_what_is_no_weight_is_refused_by_tensor(adm):
    state_dict, options = adm
    values = (np.nan, -np.inf, np.float64(1e39), np.int64(1), np.bool_(True), np.complex64(1))
    for value in values:
        wrong = np.zeros(32, type(value) if isinstance(value, np.generic) else np.float32)
        wrong[7] = value
        assert "out.0.bias" in refusal(openai.unet, {**state_dict, "out.0.bias": wrong}, options)


def test_weights_of_every_precision_are_read(adm):
    state_dict, options = adm
    for dtype in (np.float16, ml_dtypes.bfloat16, np.float64):
        bias = np.arange(32).astype(dtype)
        _, params = openai.unet({**state_dict, "out.0.bias": bias}, **options)
        np.testing.assert_array_equal(params["norm"]["bias"], np.arange(32, dtype=np.float32))


def test_other_options_and_forgotten_labels_are_refused(adm):
    state_dict, options = adm
    assert "depth" in refusal(openai.unet, state_dict, {**options, "depth": 3})
    apply, params = openai.unet(state_dict, **options, dropout=0.1, use_fp16=True)
    with pytest.raises(UserError, match="label"):
        apply(params, np.zeros((1, 16, 16, 3), np.float32), np.zeros(1))


def test_resampling_that_learns_nothing():
    case, _ = golden_format.load("unet_ddpm_style")
    state_dict = golden_format.seeded(case["state_dict"])
    bare = {n: a for n, a in state_dict.items() if ".op." not in n and "2.conv" not in n}
    apply, params = openai.unet(bare, **{**case["kwargs"], "conv_resample": False})
    x = np.zeros((1, 16, 16, 3), np.float32)
    assert jax.eval_shape(apply, params, x, np.zeros(1)).shape == x.shape


def test_rates_that_no_level_has_are_without_effect(adm):
    _, options = adm
    rates = {**options, "attention_resolutions": [2, 4, 8]}
    assert openai.unet_network(**rates) == openai.unet_network(**options)


def test_networks_that_the_other_code_lacks_are_not_exported():
    common = {"channels": 32, "channel_mult": (1,), "num_res_blocks": 1, "head_channels": 32}
    common["attention_resolutions"] = ()
    signature = openai.Signature(shape=(8, 8, 1), out_channels=1)
    label = UNetConfig(conditions=(Label(2),), **common)
    for config, own, words in (
        (label, dataclasses.replace(signature, null=True), "condition_dropout"),
        (UNetConfig(rescale_residuals=True, **common), signature, "rescale_residuals"),
        (UNetConfig(conditions=(Vector(3),), **common), signature, "released ones lack"),
    ):
        network = Network(config, own)
        params = jax.tree.map(lambda leaf: np.zeros(leaf.shape), network.shapes)
        with pytest.raises(UserError, match=words):
            openai.to_state_dict(network, params)
