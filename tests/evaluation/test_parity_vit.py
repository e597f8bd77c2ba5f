"""Feature networks of seeded weights beside the reference implementations'.

The folder of golden values is tests/goldens, or the one that JAXDIFF_GOLDENS names. Every case that
it holds is compared, by its format (tests/goldens/README.md).
"""

import re
from functools import cache

import jax
import numpy as np
import pytest

from jaxdiff.evaluation import front_ends
from jaxdiff.evaluation.networks import dinov2, sscd
from tests import golden_format
from tests.golden_format import nhwc

# Largest difference allowed, in units of the largest reference value.
TOLERANCE = {"cls": 2e-6}
OTHERWISE = 1e-5
# Numbers in the public files, by name.
NUMBERS = {
    "vits14": (175, 22_056_576),
    "vitb14": (175, 86_580_480),
    "vitl14": (343, 304_368_640),
    "vitg14": (567, 1_136_480_768),
}


def dinov2_config(common, variant):
    return dinov2.Dinov2Config(
        width=common["embed_dim"],
        depth=common["depth"],
        heads=common["num_heads"],
        swiglu=variant["ffn_layer"].startswith("swiglu"),
        registers=variant["num_register_tokens"],
        offset=variant["interpolate_offset"],
        antialias=variant["interpolate_antialias"],
        image_size=common["img_size"],
        patch=common["patch_size"],
        mlp_ratio=common["mlp_ratio"],
    )


def seeded(network, state_dict, gain):
    """The parameters that follow from a file's {name: shape}, which is the network's."""
    counted = {k: tuple(v) for k, v in state_dict.items() if "num_batches_tracked" not in k}
    assert network.shapes == counted
    return network.params(golden_format.seeded_like(state_dict, gain))


def of_dinov2(case, arrays):
    """{VARIANT/what or VARIANT/INPUT/what: array}; images are resized by EDM2's front end."""
    (front_end,) = (each for each in front_ends.DINOV2 if each.name == "edm2")
    inputs = {"": np.asarray(front_end(arrays["images"]))}
    inputs |= {name: nhwc(x) for name, x in arrays.items() if re.fullmatch(r"x\d+", name)}
    found = {}
    for name in arrays:
        if corner := re.fullmatch(r"x\d+_corner", name):
            height, width = arrays[corner[0]].shape[2:]
            found[name] = np.moveaxis(inputs[""][:, :height, :width], -1, 1)
    for variant, settings in case["variants"].items():
        config = dinov2_config(case["common"], settings)
        network = dinov2.network(config)
        params = seeded(network, settings["state_dict"], case["gain"])
        for name, x in inputs.items():
            rows, columns = (size // config.patch for size in x.shape[1:3])

            def compute(params, x, network=network, grid=(rows, columns)):
                module = network.module(params)
                cls, patches = module.tokens(x)
                position = module.positions(*grid)
                means = patches.mean(1)
                return {"cls": cls, "patches": patches, "patches_mean": means, "position": position}

            prefix = "/".join(filter(None, (variant, name)))
            found |= {f"{prefix}/{k}": v for k, v in jax.jit(compute)(params, x).items()}
    return found


def of_sscd(case, arrays):
    """{layerN_mean, gem, descriptor}; images are not resized."""
    mean, deviation = front_ends.IMAGENET
    x = ((arrays["images"] / 255 - mean) / deviation).astype(np.float32)

    @jax.jit
    def compute(params, x):
        module = sscd.SSCD.module(params)
        layers = module.backbone.layers(x)
        pooled = sscd.generalized_mean(layers[-1])
        means = {f"layer{n}_mean": layer.mean((1, 2)) for n, layer in enumerate(layers, 1)}
        return {**means, "gem": pooled, "descriptor": module.descriptor(pooled)}

    return compute(seeded(sscd.SSCD, case["state_dict"], case["gain"]), x)


KINDS = {"dinov2": of_dinov2, "sscd": of_sscd}
CASES = [(kind, name) for kind in KINDS for name in golden_format.names(f"{kind}*")]


@cache
def computed(kind, name):
    """({name: array} that is computed, what is stored of it)."""
    case, arrays = golden_format.load(name)
    found = KINDS[kind](case, arrays)
    return found, {key: array for key, array in arrays.items() if key in found}


def assert_close(got, expected):
    for key, array in expected.items():
        assert got[key].dtype == np.float32
        tolerance = TOLERANCE.get(key.rpartition("/")[2], OTHERWISE)
        assert golden_format.error(got[key], array) <= tolerance, key


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_network(kind, name):
    got, expected = computed(kind, name)
    _, arrays = golden_format.load(name)
    inputs = [key for key in arrays if key == "images" or re.fullmatch(r"x\d+", key)]
    assert {*expected, *inputs} == arrays.keys()
    assert_close(got, expected)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_a_value_that_is_off_by_two_percent_is_noticed(kind, name):
    got, expected = computed(kind, name)
    for key, array in expected.items():
        spoilt = array.copy()
        spoilt.flat[spoilt.size // 3] += 0.02 * np.abs(spoilt).max()
        with pytest.raises(AssertionError, match=key):
            assert_close(got, {**expected, key: spoilt})


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
