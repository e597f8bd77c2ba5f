"""Resizes and feature networks beside the reference implementations'.

The folder of golden values is tests/goldens, or the one that JAXDIFF_GOLDENS names. Every case that
it holds is compared, by its format (tests/goldens/README.md).
"""

import os
import re
from functools import cache

import jax
import numpy as np
import pytest

from jaxdiff.evaluation import front_ends, weights
from jaxdiff.evaluation.networks import dinov2, efficientnet, inception, sscd
from tests import golden_format
from tests.golden_format import nhwc

# Largest difference allowed, in units of the largest reference value.
TOLERANCE = {"cls": 2e-6}
OTHERWISE = 1e-5
GREY_LEVELS = 2e-3  # of resized images; the libraries' own float32 is off by half of that
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


def of_inception(case, arrays):
    """{CASE/what: array}: all cases together, so that one program is compiled."""
    names = [key.partition("/")[0] for key in arrays if key.endswith("/images")]
    cuts = np.cumsum([len(arrays[f"{name}/images"]) for name in names])[:-1]

    @jax.jit
    def compute(params, x):
        module = inception.INCEPTION.module(params)
        layers, found = module.layers(x), module(x)

        return {
            "mean64": layers["pool_1"].mean((1, 2)),
            "mean192": layers["pool_2"].mean((1, 2)),
            "mean768": layers["Mixed_6e"].mean((1, 2)),
            "pool": found["features"],
            "spatial": found["spatial"].reshape(layers["spatial"].shape),
            "logits_unbiased": found["logits"],
            "logits": found["logits"] + module.fc.bias[...],
            "softmax": jax.nn.softmax(found["logits"]),
        }

    params = seeded(inception.INCEPTION, case["state_dict"], 2)
    results = {}
    for front_end in front_ends.INCEPTION:
        inputs = [np.asarray(front_end(arrays[f"{name}/images"])) for name in names]
        found = compute(params, np.concatenate(inputs))
        if front_end.name != "tf1-bilinear":
            ending = {"pytorch-fid": "pytorch_fid", "clean-fid": "clean"}[front_end.name]
            found = {f"pool_{ending}": found["pool"]}
        for what, array in found.items():
            parts = zip(names, np.split(np.asarray(array), cuts), strict=True)
            results |= {f"{name}/{what}": part for name, part in parts}
    return results


def of_efficientnet(case, arrays):
    """{features, logits, blockI_mean}, of real weights."""
    network = efficientnet.LITE0
    tensors, sha256, _ = weights.read("efficientnet-lite0", network.shapes)
    assert sha256 in case["weights"]

    @jax.jit
    def compute(params, images):
        module = network.module(params)
        blocks = module.blocks(front_ends.EFFICIENTNET_LITE[0](images))
        features = module.head(blocks[-1])
        means = {f"block{n}_mean": block.mean((1, 2)) for n, block in enumerate(blocks)}
        return {**means, "features": features, "logits": module.logits(features)}

    return compute(network.params(tensors), arrays["images"])


def of_resize(case, arrays):
    """{CASE/RESIZE: image; pos/WAY: a grid of position embeddings}."""
    found = {}
    for key, array in arrays.items():
        name, _, how = key.partition("/")
        if name != "pos" and how in front_ends.RESIZES:
            resize, image = front_ends.RESIZES[how], arrays[f"{name}/image"]
            height, width = array.shape[:2]
            found[key] = np.asarray(resize(image[None], height, width)[0])
            if resize.rounded and np.abs(found[key] - array).max() > 1:
                # Pillow 13 has the vertical pass first for some sizes, which the file does not say.
                turned = resize(image.swapaxes(0, 1)[None], width, height)[0]
                found[key] = np.asarray(turned).swapaxes(0, 1)
        if name == "pos" and how != "grid":
            ways = {"size": front_ends.torch_bicubic, "antialias": front_ends.antialiased_bicubic}
            offset = float(how.removeprefix("offset_")) if "offset" in how else 0.0
            way = ways["antialias" if how.endswith("antialias") else "size"]
            resize = front_ends.Resize(lambda size, to, way=way, x=offset: way(size, to, x))
            found[key] = resize(arrays["pos/grid"][None], *array.shape[:2])[0]
    return found


KINDS = {
    "dinov2": of_dinov2,
    "efficientnet_lite0": of_efficientnet,
    "inception": of_inception,
    "resize": of_resize,
    "sscd": of_sscd,
}
INPUTS = r"(.+/)?(x\d+|images|image|grid)"
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
        if array.dtype == np.uint8:
            assert np.abs(np.subtract(got[key], array, dtype=np.float32)).max() <= 1, key
            continue
        if key.rpartition("/")[2] in front_ends.RESIZES:
            assert np.abs(got[key] - array).max() <= GREY_LEVELS, key
            continue
        tolerance = TOLERANCE.get(key.rpartition("/")[2], OTHERWISE)
        assert golden_format.error(got[key], array) <= tolerance, key


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
