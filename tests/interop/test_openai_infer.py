"""Configs from shapes: equal to what the reference's networks were made with."""

import contextlib

import numpy as np
import pytest

from jaxdiff import config as config_lib
from jaxdiff import factory
from jaxdiff.errors import UserError
from jaxdiff.interop import openai
from jaxdiff.interop.openai_infer import Options, infer
from jaxdiff.interop.openai_names import tensors
from tests import golden_format


def golden(name):
    """Shapes of a golden case, its constructor's arguments, and the options that shapes lack."""
    case, _ = golden_format.load(name)
    kwargs = {k: v for k, v in case["kwargs"].items() if k != "use_new_attention_order"}
    width = kwargs.get("num_head_channels", -1)
    heads = {"num_heads": kwargs["num_heads"]} if width == -1 else {"head_channels": width}
    shapes = {name: tuple(shape) for name, shape in case["state_dict"].items()}
    return shapes, kwargs, {"image_size": kwargs["image_size"], **heads}


@pytest.mark.parametrize("name", golden_format.names("unet_*", "classifier_*", "superres"))
def test_the_network_of_a_golden_case(name):
    shapes, kwargs, options = golden(name)
    if name == "superres":
        options["low_res_size"] = 8
    make = openai.classifier_network if "pool" in kwargs else openai.unet_network
    larger = {"super_resolution": True} if name == "superres" else {}
    if kwargs.get("pool") == "attention":
        del options["image_size"]  # its positions are counted
    config, _ = infer(shapes, Options(**options))
    config_lib.validate(config)
    assert factory.network(config).spec == make(**kwargs, **larger).spec


MADE = {
    "one level": {"channel_mult": (1,), "num_res_blocks": 3, "attention_resolutions": ()},
    "grey": {"in_channels": 1, "out_channels": 1},
    "grey, enlarged": {"in_channels": 1, "out_channels": 2, "super_resolution": True},
    "thirds": {"model_channels": 96, "channel_mult": (1, 1 / 3, 5 / 3), "num_res_blocks": 2},
    "no attention": {"attention_resolutions": (), "channel_mult": (1, 1, 1)},
    "attention everywhere": {"attention_resolutions": (1, 2, 4), "channel_mult": (1, 1, 1)},
    "pooled": {"resblock_updown": False, "conv_resample": False, "channel_mult": (1, 1, 1)},
    "convolved": {"resblock_updown": False, "channel_mult": (1, 1), "num_res_blocks": 3},
    "classifier by attention": {"pool": "spatial", "channel_mult": (1, 1, 1)},
    "classifier, pooled": {
        "pool": "adaptive",
        "resblock_updown": False,
        "conv_resample": False,
        "channel_mult": (1, 1, 1),
    },
}


@pytest.mark.parametrize("case", MADE)
def test_the_network_of_other_options(case):
    options = {
        "image_size": 16,
        "in_channels": 3,
        "out_channels": 6,
        "model_channels": 32,
        "channel_mult": (1, 2),
        "num_res_blocks": 2,
        "attention_resolutions": (2,),
        "num_heads": 2,
        "resblock_updown": True,
        **MADE[case],
    }
    make = openai.classifier_network if "pool" in options else openai.unet_network
    network = make(**options)
    shapes = {tensor.name: tensor.their_shape for tensor in tensors(network)}
    low_res = 8 if options.get("super_resolution") else None
    config, _ = infer(shapes, Options(image_size=16, num_heads=2, low_res_size=low_res))
    found = factory.network(config)
    assert {t.name: t.their_shape for t in tensors(found)} == shapes
    assert found.spec.widths == network.spec.widths
    assert found.spec.attention_resolutions[::-1] == network.spec.attention_resolutions[::-1]


def test_what_no_tensor_says_is_asked_for_or_said():
    shapes, _, options = golden("unet_deep")
    with pytest.raises(UserError, match="--image_size"):
        infer(shapes, Options())
    with pytest.raises(UserError, match="--head_channels"):
        infer(shapes, Options(image_size=32))  # 64 does not divide 96
    with pytest.raises(UserError, match="--low_res_size 8 "):
        infer(shapes, Options(**options, low_res_size=8))
    _, notes = infer(shapes, Options(**options))
    assert "--schedule" in " ".join(notes)
    _, notes = infer(shapes, Options(**options, schedule="cosine"))
    assert notes == []
    shapes, _, options = golden("superres")
    with pytest.raises(UserError, match="--low_res_size"):
        infer(shapes, Options(**options))
    shapes, _, options = golden("unet_adm")
    config, notes = infer(shapes, Options(image_size=16))
    assert config.model.head_channels == 64
    assert "--num_heads" in " ".join(notes)


def test_a_layout_of_blocks_that_is_not_clear_is_not_guessed():
    # A classifier of one width without attention: 2 levels of 2 blocks look as 1 level of 5 does.
    network = openai.classifier_network(
        image_size=16,
        in_channels=3,
        out_channels=10,
        model_channels=32,
        channel_mult=(1, 1),
        num_res_blocks=2,
        attention_resolutions=(),
        pool="adaptive",
        resblock_updown=True,
    )
    shapes = {tensor.name: tensor.their_shape for tensor in tensors(network)}
    with pytest.raises(UserError, match="2 levels of 2 blocks.*--config"):
        infer(shapes, Options(image_size=16, num_heads=1))


def test_other_tensors_are_refused_in_a_sentence():
    shapes, _, options = golden("unet_adm")
    changes = [
        {"input_blocks.0.0.weight": (32,)},
        {"input_blocks.9999.0.weight": (32,)},
        {"input_blocks.4.0.in_layers.2.weight": (32,)},
        {"out.2.bias": (5,)},
        {"time_embed.0.weight": (0, 0)},
        {"time_embed.0.weight": ()},
    ]
    for change in changes:
        with pytest.raises(UserError, match="--config") as caught:
            infer({**shapes, **change}, Options(**options))
        assert "\n" not in str(caught.value)
    random = np.random.RandomState(0)
    for _ in range(300):
        few = {name: shape for name, shape in shapes.items() if random.rand() < 0.97}
        with contextlib.suppress(UserError):
            infer(few, Options(**options))
