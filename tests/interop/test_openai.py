"""Import and export of released checkpoints: what is refused, and how that is said."""

import jax
import ml_dtypes
import numpy as np
import pytest

from jaxdiff.errors import UserError
from jaxdiff.interop import openai
from jaxdiff.models.network import Network
from jaxdiff.models.unet import UNet, UNetSpec
from tests import golden_format


def unet_case(name="unet_adm"):
    case, _ = golden_format.load(name)
    return golden_format.seeded(case["state_dict"]), case["kwargs"]


def refusal(importer, state_dict, options):
    with pytest.raises(UserError) as caught:
        importer(state_dict, **options)
    sentence = str(caught.value)
    assert len(sentence) < 1000
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_channels": 64}, "model_channels is 32 by its tensors and 64 by the options"),
        ({"in_channels": 1}, "is 3 by its tensors and 1 by the options"),
        ({"out_channels": 3}, "out_channels is 6 by its tensors and 3 by the options"),
        ({"num_classes": None}, "num_classes is 10 by its tensors and None by the options"),
        ({"num_classes": 11}, "num_classes is 10 by its tensors and 11 by the options"),
        ({"num_res_blocks": 2}, "(num_res_blocks + 1) is 4 by its tensors and 6 by the"),
        ({"channel_mult": [1, 2, 2]}, "(num_res_blocks + 1) is 4 by its tensors and 6 by the"),
        ({"channel_mult": [1, 3]}, "the widest level (channel_mult) is 64 by its tensors and 96"),
        ({"attention_resolutions": [1, 2]}, "(input blocks) is [3] by its tensors and [1, 3] by"),
        ({"resblock_updown": False}, "resblock_updown is True by its tensors and False by"),
        ({"use_scale_shift_norm": False}, "use_scale_shift_norm is True by its tensors and False"),
    ],
)
def test_a_wrong_option_is_named(changes, words):
    state_dict, options = unet_case()
    assert words in refusal(openai.unet, state_dict, {**options, **changes})


def test_resampling_that_learns_nothing_is_told_apart():
    state_dict, options = unet_case("unet_ddpm_style")
    bare = {
        name: a for name, a in state_dict.items() if ".op." not in name and "2.conv" not in name
    }
    apply, params = openai.unet(bare, **{**options, "conv_resample": False})
    x = np.zeros((1, 16, 16, 3), np.float32)
    assert apply(params, x, np.zeros(1)).shape == x.shape
    assert "conv_resample is False by its tensors and True" in refusal(openai.unet, bare, options)


def test_a_classifier_is_not_a_diffusion_model():
    state_dict, options = unet_case()
    case, _ = golden_format.load("classifier_attention")
    classifier = golden_format.seeded(case["state_dict"])
    sentence = refusal(openai.unet, classifier, options)
    assert "pool is attention by its tensors and None by the options" in sentence
    sentence = refusal(openai.classifier, state_dict, case["kwargs"])
    assert "pool is None by its tensors and attention by the options" in sentence
    sentence = refusal(openai.classifier, classifier, {**case["kwargs"], "image_size": 32})
    assert "image_size (positions of the pool) is 65 by its tensors and 257" in sentence
    for pool in ("adaptive", "spatial", "spatial_v2"):
        sentence = refusal(openai.classifier, classifier, {**case["kwargs"], "pool": pool})
        assert f"pool is attention by its tensors and {pool} by the options" in sentence


def test_a_few_tensors_are_named_whatever_is_wrong():
    state_dict, options = unet_case()
    del state_dict["out.0.bias"]
    state_dict["ema.decay"] = np.zeros(())
    state_dict["out.0.weight"] = np.zeros(7)
    sentence = refusal(openai.unet, state_dict, options)
    assert "(out.0.bias is missing; ema.decay is unexpected; out.0.weight is [7] and not [32])" in (
        sentence
    )
    sentence = refusal(openai.unet, {}, options)
    assert "time_embed.0.weight is missing" in sentence
    assert sentence.count("is missing") == 5
    assert "and 140 more" in sentence


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.nan, "1 numbers of 32 "),
        (-np.inf, "1 numbers of 32 "),
        (np.float64(1e39), "1 numbers of 32 "),
        (np.int64(1), "is of int64"),
        (np.uint8(1), "is of uint8"),
        (np.bool_(True), "is of bool"),
        (np.complex64(1), "is of complex64"),
    ],
)
def test_what_is_no_weight_is_refused_by_tensor(value, words):
    state_dict, options = unet_case()
    bad = np.zeros(32, type(value) if isinstance(value, np.generic) else np.float32)
    bad[7] = value
    sentence = refusal(openai.unet, {**state_dict, "out.0.bias": bad}, options)
    assert "out.0.bias" in sentence
    assert words in sentence


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_weights_of_every_precision_are_read(dtype):
    state_dict, options = unet_case()
    bias = np.arange(32).astype(dtype)
    _, params = openai.unet({**state_dict, "out.0.bias": bias}, **options)
    np.testing.assert_array_equal(params["norm"]["bias"], np.arange(32, dtype=np.float32))


def test_other_options_and_forgotten_labels_are_refused():
    state_dict, options = unet_case()
    assert "depth is no option" in refusal(openai.unet, state_dict, {**options, "depth": 3})
    apply, params = openai.unet(state_dict, **options, dropout=0.1, use_fp16=True)
    with pytest.raises(UserError, match="give it labels"):
        apply(params, np.zeros((1, 16, 16, 3), np.float32), np.zeros(1))


def test_rates_that_no_level_has_are_without_effect():
    _, options = unet_case()
    rates = {**options, "attention_resolutions": [2, 4, 8]}
    assert openai.unet_network(**rates).spec == openai.unet_network(**options).spec


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"null_class": True}, "row for the null class"), ({"rescale_residuals": True}, "rescale")],
)
def test_networks_that_the_other_code_lacks_are_not_exported(changes, words):
    spec = UNetSpec(
        image_size=8,
        in_channels=1,
        out_channels=1,
        channels=32,
        channel_mult=(1,),
        num_res_blocks=1,
        num_classes=2,
        head_channels=32,
        **changes,
    )
    network = Network(lambda rngs: UNet(spec, rngs=rngs), spec)
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape), network.shapes)
    with pytest.raises(UserError, match=words):
        openai.to_state_dict(network, params)
