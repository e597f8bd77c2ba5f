"""Features of images by networks with their weights, on one device and on several."""

import dataclasses
import os
import tarfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from flax import nnx
from PIL import Image

from jaxdiff import factory
from jaxdiff.data.source import open_split
from jaxdiff.errors import UserError
from jaxdiff.evaluation import extractors, front_ends, weights
from jaxdiff.evaluation.extractors import Extractor, open_extractor
from jaxdiff.evaluation.networks.units import Network, zeros
from jaxdiff.parallel.mesh import make_mesh
from jaxdiff.tensor_files import torch_file
from tests import golden_format, runs, tiny


class Means(nnx.Module):
    """Weighted sums of each channel's mean: a network whose features a test can compute."""

    def __init__(self):
        self.weight = zeros(3, 2)

    def __call__(self, x):
        return {"features": x.mean((1, 2)) @ self.weight[...]}


@pytest.fixture
def means(tmp_path, monkeypatch):
    """(path of the weights of a network "means", which has two front ends; the weights)."""
    kind = extractors.Kind(Network(Means), {"features": 2}, front_ends.INCEPTION[::2])
    monkeypatch.setitem(extractors.KINDS, "means", kind)
    public = dataclasses.replace(weights.FILES["sscd"], sha256="0" * 64)
    monkeypatch.setitem(weights.FILES, "means", public)
    path, matrix = epath.Path(tmp_path / "means.pth"), np.float32([[1, 2, 3], [0, 1, -1]])
    torch_file.write(path, {"weight": matrix})
    return path, matrix


def images(count, size=6, channels=3):
    return np.random.RandomState(0).randint(0, 256, (count, size, size, channels), np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_features_are_those_of_every_image_in_order(means, channels, monkeypatch):
    path, matrix = means
    x = images(37, channels=channels)
    # As TensorFlow resizes: pixel i of 299 is at 6 i / 299, between two of the six.
    at = np.arange(299) * 6 / 299
    low, share = at.astype(int), at % 1
    a = np.eye(6)[low] * (1 - share)[:, None] + np.eye(6)[np.minimum(low + 1, 5)] * share[:, None]
    pixel = a.mean(0)
    expected = np.einsum("nhwc,h,w->nc", (x - 128.0) / 128, pixel, pixel)
    expected = np.broadcast_to(expected, (37, 3)) @ matrix.T
    for mesh in (make_mesh(devices=jax.devices()[:1]), make_mesh()):
        extractor = open_extractor("means", path, mesh)
        found = extractor(x)["features"]
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-5)
        monkeypatch.setattr(os, "cpu_count", lambda: 2)
        parts = [part["features"] for part in extractor.run(lambda rows: x[rows], len(x), True)]
        assert [len(part) for part in parts] == [8, 8, 8, 8, 5]
        np.testing.assert_allclose(np.concatenate(parts), expected, atol=1e-5)


def test_the_name_says_network_front_end_and_other_weights(means, capsys):
    first, second = (open_extractor(text, means[0]) for text in ("means", "means:clean-fid"))
    assert "not the public file" in capsys.readouterr().out
    assert str(second) == f"means of weights {second.digest[:8]}, clean-fid"
    assert first.key == f"means.tf1-bilinear.{first.digest[:8]}"
    public = dataclasses.replace(first, public=True)
    assert str(public) == "means, tf1-bilinear"
    run = dataclasses.replace(public, name="runs/c@500:ema=0.1", front_end="")
    assert str(run) == "runs/c@500:ema=0.1"
    assert run.key == f"runs-c-500-ema-0.1.{run.digest[:8]}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("incption", "neither.*did you mean inception"),
        ("means:bicubic", "no front end 'bicubic'.*tf1-bilinear"),
        ("inception:bilinear", "no front end 'bilinear'.*tf1-bilinear"),
        ("runs/nowhere", "runs/nowhere"),
    ],
)
def test_what_is_not_known_is_refused(means, text, said):
    with pytest.raises(UserError, match=said):
        open_extractor(text, means[0])


def test_images_that_fit_no_network_are_refused(means):
    extractor = open_extractor("means", means[0])
    with pytest.raises(UserError, match="1 or 3"):
        extractor(images(2, channels=4))
    other = dataclasses.replace(extractor, shape=(8, 8, 3))
    with pytest.raises(UserError, match=r"\(8, 8, 3\).*\(6, 6, 3\)"):
        other(images(2))


def test_features_that_are_not_finite_are_refused_with_the_image(means):
    path, _ = means
    torch_file.write(path, {"weight": np.full((2, 3), 3e38, np.float32)})  # of bright images: inf
    x = np.full((21, 6, 6, 3), 128, np.uint8)
    x[[17, 19]] = 255
    with pytest.raises(UserError, match=r"features of image 17 by means"):
        open_extractor("means", path)(x)


@pytest.fixture(scope="module")
def lite(alone):
    return open_extractor("efficientnet-lite0")


def test_features_do_not_depend_on_the_batch(lite):
    x = images(3, 40)
    together, single = lite(x)["features"], lite(x[1:2])["features"]
    assert golden_format.error(single, together[1:2]) <= 1e-6


def test_weights_of_a_package_are_found_without_a_folder(lite):
    assert lite.public
    assert lite.key == "efficientnet-lite0.bicubic.57934424"
    assert lite.outputs == {"features": 1280}


DATA = os.environ.get("JAXDIFF_TEST_DATA", "")


@pytest.mark.skipif(not DATA, reason="JAXDIFF_TEST_DATA names no folder of real data")
def test_photographs_are_recognised(lite):
    with tarfile.open(f"{DATA}/caltech12.tar") as archive:
        names = sorted(n for n in archive.getnames() if "grand_piano" in n and n.endswith(".jpg"))
        crops = []
        for name in names[:4]:
            with Image.open(archive.extractfile(name)) as image:
                crops.append(np.asarray(image.convert("RGB").resize((224, 224))))
    features = lite(np.stack(crops))["features"]
    kind = extractors.KINDS["efficientnet-lite0"]
    tensors, _, _ = weights.read("efficientnet-lite0", kind.network.shapes)
    classes = (features @ tensors["_fc.weight"].T + tensors["_fc.bias"]).argmax(1)
    assert (classes == 579).sum() >= 3, "ImageNet's grand piano"


@pytest.fixture(scope="module")
def seen(alone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "classifier"
    return open_extractor(runs.make_run(folder, runs.classifier()))


def test_features_of_a_run_are_those_of_clean_images_at_time_0(seen):
    config = runs.classifier()
    x = open_split(config.data, "test", ()).fetch(np.arange(3))["x"]
    network = factory.network(config)
    params = runs.random_params(network, seed=10)  # make_run's, of its last step
    expected = jax.jit(network.features)(params, jnp.float32(x) / 127.5 - 1, jnp.zeros(3))
    np.testing.assert_allclose(seen(x)["features"], expected, rtol=1e-4, atol=1e-5)
    assert isinstance(seen, Extractor)
    assert seen.outputs == {"features": expected.shape[1]}
    assert (seen.shape, seen.front_end, seen.public) == (config.data.shape, "", True)
    assert seen.name.endswith("classifier@10")


def test_a_diffusion_models_run_is_refused(alone, tmp_path):
    with pytest.raises(UserError, match="diffusion model.*classifier"):
        open_extractor(runs.make_run(tmp_path / "model", tiny.config()))
