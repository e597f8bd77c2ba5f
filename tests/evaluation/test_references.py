"""References: the files of OpenAI, EDM and EDM2, and those that are written here."""

import contextlib
import pickle
import zipfile

import numpy as np
import pytest

from jaxdiff.errors import UserError
from jaxdiff.evaluation.images import of_arrays, open_images
from jaxdiff.evaluation.metrics.frechet import Moments, distance
from jaxdiff.evaluation.references import open_reference, write_reference
from tests.data.preparing import noise
from tests.evaluation.projection import Projection

IMAGES = noise(40, 8, 8, 3)
INCEPTION, DINO = Projection(), Projection(name="dinov2-vitl14", front_end="edm2")
CLEAN = Projection(front_end="clean-fid")


def moments(size=6, seed=0):
    """(mean, covariance) of rows."""
    rows = np.random.RandomState(seed).randn(30, size)
    return rows.mean(0), np.cov(rows, rowvar=False)


def openai(path, **changes):
    (mu, sigma), (mu_s, sigma_s) = moments(), moments(4, 1)
    content = {"arr_0": IMAGES, "mu": mu, "sigma": sigma, "mu_s": mu_s, "sigma_s": sigma_s}
    content = {name: array for name, array in {**content, **changes}.items() if array is not None}
    np.savez(path, **content)
    return str(path)


def assert_moments(got, expected):
    np.testing.assert_array_equal(got.mean, expected[0])
    np.testing.assert_array_equal(got.covariance, expected[1])


def test_openai_s_files_hold_moments_and_images(tmp_path):
    reference = open_reference(openai(tmp_path / "x.npz"))
    found = reference.moments_of(INCEPTION)
    assert {*found} == {"features", "spatial"}
    assert_moments(found["features"], moments())
    assert_moments(found["spatial"], moments(4, 1))
    assert found["features"].count is None
    np.testing.assert_array_equal(reference.images.fetch(np.arange(40)), IMAGES)
    # They are of one network and front end, and of no other.
    assert reference.moments_of(CLEAN) == reference.moments_of(DINO) == {}
    assert reference.digest == reference.images.digest
    with pytest.raises(UserError, match="--image_size is 4, but .* of images of 8x8 pixels"):
        open_reference(str(tmp_path / "x.npz"), image_size=4)


def test_edm_s_files_hold_moments_alone(tmp_path):
    path = openai(tmp_path / "x.npz", arr_0=None, mu_s=None, sigma_s=None)
    reference = open_reference(path)
    assert reference.images is None
    assert {*reference.moments_of(INCEPTION)} == {"features"}
    assert_moments(reference.moments_of(INCEPTION)["features"], moments())


def test_edm2_s_pickles_hold_moments_of_two_networks(tmp_path):
    values = {"num_images": 1281167}
    for seed, name in enumerate(("fid", "fd_dinov2")):
        values[name] = dict(zip(("mu", "sigma"), moments(seed=seed), strict=True))
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(values))
    reference = open_reference(str(tmp_path / "x.pkl"))
    assert reference.images is None
    for seed, extractor in enumerate((INCEPTION, DINO)):
        (found,) = reference.moments_of(extractor).values()
        assert_moments(found, moments(seed=seed))
        assert found.count == 1281167
    assert reference.moments_of(Projection(name="dinov2-vitl14", front_end="dgm-eval")) == {}
    (tmp_path / "y.pkl").write_bytes(pickle.dumps({"num_images": 3}))
    with pytest.raises(UserError, match="holds num_images, and neither of fid, fd_dinov2"):
        open_reference(str(tmp_path / "y.pkl"))
    (tmp_path / "y.pkl").write_bytes(pickle.dumps({**values, "num_images": "many"}))
    with pytest.raises(UserError, match="its num_images is str .*, not a whole number"):
        open_reference(str(tmp_path / "y.pkl"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sigma": None}, r"mu and sigma are float64 \[6\] and missing, not \[D\] and \[D, D\]"),
        ({"sigma_s": np.eye(3)}, r"float64 \[4\] and float64 \[3, 3\]"),
        ({"mu": np.arange(6)}, r"int64 \[6\]"),
        ({"sigma": np.full((6, 6), np.nan)}, "not all finite"),
        ({"sigma": np.triu(np.ones((6, 6)))}, "symmetric"),
        ({"sigma": -np.eye(6)}, "diagonal is not negative"),
        ({"num_images": 1}, "its num_images is int64 .*, not a whole number of 2 at least"),
        ({"num_images": np.arange(3)}, r"its num_images is int64 \[3\]"),
    ],
)
def test_moments_are_checked(tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        open_reference(openai(tmp_path / "x.npz", **changes))


def test_moments_of_another_number_of_features(tmp_path):
    reference = open_reference(openai(tmp_path / "x.npz"))
    other = Projection(outputs={"features": 2048, "spatial": 2023, "logits": 1008})
    with pytest.raises(UserError, match="moments of 6 features .*makes 2048"):
        reference.moments_of(other)


def test_an_array_of_others_called_features_says_nothing(tmp_path):
    reference = open_reference(openai(tmp_path / "x.npz", features=np.zeros((40, 6))))
    assert {*reference.moments_of(INCEPTION)} == {"features", "spatial"}
    changes = {"mu": None, "mu_features": np.zeros(6), "sigma_features": np.eye(6)}
    with pytest.raises(UserError, match="does not say what its moments are of"):
        open_reference(openai(tmp_path / "x.npz", **changes))


def test_files_of_moments_have_no_splits(tmp_path):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"fid": {}}))
    for path in (openai(tmp_path / "x.npz"), str(tmp_path / "x.pkl")):
        with pytest.raises(UserError, match="--split is test, but .* holds no splits"):
            open_reference(path, split="test")


def test_any_images_are_a_reference(tmp_path):
    np.savez(tmp_path / "x.npz", images=IMAGES)
    reference = open_reference(str(tmp_path / "x.npz"))
    assert (reference.moments, len(reference.images)) == ({}, 40)
    for content in (b"\x80\x04nothing", b"PK"):
        (tmp_path / "x.npz").write_bytes(content)
        with pytest.raises(UserError, match=r"x\.npz"):
            open_reference(str(tmp_path / "x.npz"))
    with pytest.raises(UserError, match="does not exist"):
        open_reference(str(tmp_path / "nowhere"))


# Files that are written.


@contextlib.contextmanager
def streamed(path, name):
    """Batches of an npz file's array as OpenAI's evaluator reads them, without loading the array.

    It streams what is stored in C order with a header of version 1 or 2, by consecutive reads.
    """
    with open(path, "rb") as file, zipfile.ZipFile(file, "r") as archive:
        assert f"{name}.npy" in archive.namelist()
        with archive.open(f"{name}.npy", "r") as member:
            assert np.lib.format.read_magic(member) == (1, 0)
            shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(member)
            assert not is_fortran

            def batches(size):
                for start in range(0, shape[0], size):
                    count = min(size, shape[0] - start)
                    content = member.read(int(count * np.prod(shape[1:]) * dtype.itemsize))
                    yield np.frombuffer(content, dtype).reshape([count, *shape[1:]])

            yield batches


def independent(extractor, images, output):
    rows = extractor(images)[output].astype(np.float64)
    return rows.mean(0), np.cov(rows, rowvar=False)


@pytest.mark.parametrize("channels", [1, 3])
def test_openai_s_evaluator_reads_what_is_written(tmp_path, channels):
    path, images = tmp_path / "ref.npz", IMAGES[..., :channels]
    labels = np.arange(40) % 3
    write_reference(str(path), of_arrays(images, labels), INCEPTION, count_of_images=10)
    chosen = np.arange(10) * 4
    with streamed(path, "arr_0") as batches:
        read = np.concatenate([batch.astype(np.float32) for batch in batches(4)])
    np.testing.assert_array_equal(read, np.broadcast_to(images[chosen], (10, 8, 8, 3)))
    held = np.load(path)
    assert "mu" in list(held.keys())
    for output, mu, sigma in (("features", "mu", "sigma"), ("spatial", "mu_s", "sigma_s")):
        mean, covariance = independent(INCEPTION, images, output)
        assert held[mu].dtype == held[sigma].dtype == np.float64
        np.testing.assert_allclose(held[mu], mean, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(held[sigma], covariance, rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(held["arr_1"], labels[chosen])
    # And so is it read here.
    reference = open_reference(str(path))
    found = reference.moments_of(INCEPTION)
    assert found["features"].count == 40
    assert_moments(found["spatial"], (held["mu_s"], held["sigma_s"]))
    whole = Moments(*independent(INCEPTION, images, "features"))
    assert distance(found["features"], whole) == pytest.approx(0, abs=1e-8)
    assert len(reference.images) == 10
    with pytest.raises(UserError, match="by the weights abababab, and these are cdcdcdcd"):
        reference.moments_of(Projection(digest="cd" * 32))


def test_moments_of_other_features_are_not_taken_for_inception_s(tmp_path):
    path, extractor = str(tmp_path / "ref.npz"), Projection("sscd", "288", outputs={"features": 6})
    write_reference(path, of_arrays(IMAGES), extractor)
    held = np.load(path)
    assert not {"mu", "sigma", "mu_s", "sigma_s"} & {*held.keys()}
    reference = open_reference(path)
    assert reference.moments_of(INCEPTION) == {}
    found = reference.moments_of(extractor)["features"]
    np.testing.assert_allclose(found.mean, independent(extractor, IMAGES, "features")[0])
    np.testing.assert_array_equal(reference.images.fetch(np.arange(40)), IMAGES)


def test_what_is_there_is_not_replaced(tmp_path):
    path = tmp_path / "x.npz"
    write_reference(str(path), of_arrays(IMAGES), INCEPTION)
    content = path.read_bytes()
    write_reference(str(path), of_arrays(IMAGES), INCEPTION)
    assert path.read_bytes() == content
    with pytest.raises(UserError, match="another images"):
        write_reference(str(path), of_arrays(255 - IMAGES), INCEPTION)
    np.savez(path, arr_0=IMAGES)
    with pytest.raises(UserError, match="not a file that this command wrote"):
        write_reference(str(path), open_images(str(path)), INCEPTION)
    with pytest.raises(UserError, match="holds one image"):
        write_reference(str(tmp_path / "y.npz"), of_arrays(IMAGES[:1]), INCEPTION)
