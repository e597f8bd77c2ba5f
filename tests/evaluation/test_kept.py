"""Features that are computed once for each set and extractor, and what happens to old ones."""

import dataclasses
import weakref

import numpy as np
import pytest

from jaxdiff import files
from jaxdiff.errors import UserError
from jaxdiff.evaluation import kept
from jaxdiff.evaluation.images import of_arrays, open_images
from jaxdiff.evaluation.references import Reference, open_reference
from tests.data.preparing import noise
from tests.disk import with_mode
from tests.evaluation.projection import Projection

IMAGES = noise(40, 4, 4, 3)


@pytest.fixture
def images(tmp_path):
    np.savez(tmp_path / "x.npz", images=IMAGES, labels=np.arange(40) % 4)
    return open_images(str(tmp_path / "x.npz"))


def reference(images):
    return Reference(name=images.name, digest=images.digest, images=images)


def test_features_are_computed_once(images):
    extractor = Projection()
    for _ in range(2):
        found = kept.features_of(images, extractor)
        for output, rows in Projection()(IMAGES).items():
            assert found[output].dtype == np.float32
            np.testing.assert_allclose(found[output], rows, rtol=1e-6)
    assert extractor.calls == [40]
    (name,) = files.names(images.folder)
    assert name == f"inception-2015.tf1-bilinear.abababab.{images.digest[:8]}.npz"


def test_other_images_weights_and_corrupt_files_are_computed_again(images, tmp_path):
    extractor = Projection()
    kept.features_of(images, extractor)
    # The name of the file is the same.
    other = dataclasses.replace(images, digest=images.digest[:8] + "0" * 56)
    kept.features_of(other, extractor)
    kept.features_of(images, dataclasses.replace(extractor, digest="abababab" + "0" * 56))
    kept.features_of(images, extractor)
    assert extractor.calls == [40] * 4
    path = images.folder / files.names(images.folder)[0]
    content = files.read_bytes(path)
    place = content.index(Projection()(IMAGES)["spatial"].tobytes()) + 50
    flipped = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
    for broken in (content[:1000], flipped, b""):
        files.write_bytes(path, broken)
        kept.features_of(images, extractor)
        assert files.read_bytes(path) == content
    assert extractor.calls == [40] * 7


def test_a_folder_that_cannot_be_written_gives_one_notice(images, tmp_path, capsys):
    extractor = Projection()
    with with_mode(tmp_path, 0o555):
        found = kept.features_of(images, extractor)
        statistics = kept.statistics_of(reference(images), extractor, rows=10)
    assert len(found["features"]) == 40
    assert len(statistics.features) == 10
    assert capsys.readouterr().out.count("are not kept") == 2  # one for each


def test_sets_without_a_folder_are_not_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    extractor = Projection()
    for _ in range(2):
        kept.features_of(of_arrays(IMAGES), extractor)
    assert extractor.calls == [40, 40]
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("rows", [10, 16, 40, 1000])
def test_statistics_of_images(images, rows):
    extractor = Projection()
    numbers = np.arange(min(rows, 40)) * 40 // min(rows, 40)
    own = {name: each.astype(np.float64) for name, each in Projection()(IMAGES).items()}
    for _ in range(2):
        found = kept.statistics_of(reference(images), extractor, rows=rows)
        assert found.count == 40
        assert {*found.moments} == {"features", "spatial"}
        for name, moments in found.moments.items():
            assert moments.count == 40
            np.testing.assert_allclose(moments.mean, own[name].mean(0), rtol=1e-6)
            np.testing.assert_allclose(
                moments.covariance, np.cov(own[name], rowvar=False), rtol=1e-6, atol=1e-9
            )
        np.testing.assert_array_equal(found.rows, numbers)
        np.testing.assert_array_equal(found.features, Projection()(IMAGES)["features"][numbers])
        np.testing.assert_array_equal(found.labels, numbers % 4)
    assert extractor.calls == [40]


def test_other_rows_need_only_their_own_features(images):
    extractor = Projection()
    for rows in (10, 8, 10, 8):
        assert len(kept.statistics_of(reference(images), extractor, rows=rows).features) == rows
    assert extractor.calls == [40, 8]


def test_a_set_can_be_samples_and_reference(images):
    extractor = Projection()
    kept.statistics_of(reference(images), extractor)
    kept.features_of(images, extractor)  # which needs the logits too
    kept.statistics_of(reference(images), extractor)
    kept.features_of(images, extractor)
    few = kept.statistics_of(reference(images), extractor, rows=8)
    assert extractor.calls == [40, 40]
    np.testing.assert_array_equal(few.features, Projection()(IMAGES)["features"][::5])
    assert few.moments["features"].count == 40


def test_the_file_s_moments_are_for_distances_and_its_images_for_neighbours(tmp_path):
    mean, covariance = np.zeros(6), np.eye(6)
    np.savez(tmp_path / "x.npz", arr_0=IMAGES, mu=mean, sigma=covariance)
    extractor = Projection()
    found = kept.statistics_of(open_reference(str(tmp_path / "x.npz")), extractor, rows=10)
    assert found.count is None
    np.testing.assert_array_equal(found.moments["features"].covariance, covariance)
    np.testing.assert_array_equal(found.features, Projection()(IMAGES)["features"][::4])
    assert extractor.calls == [10]
    # Another front end's are computed of the images.
    other = Projection(front_end="clean-fid")
    found = kept.statistics_of(open_reference(str(tmp_path / "x.npz")), other)
    assert found.count == 40
    np.savez(tmp_path / "y.npz", mu=mean, sigma=covariance)
    found = kept.statistics_of(open_reference(str(tmp_path / "y.npz")), extractor)
    assert (found.features, found.rows, found.labels) == (None, None, None)
    with pytest.raises(UserError, match="has no images, and moments of inception-2015, tf1-bil"):
        kept.statistics_of(open_reference(str(tmp_path / "y.npz")), other)


def test_one_image_is_no_reference():
    with pytest.raises(UserError, match="mine has one image"):
        kept.statistics_of(reference(of_arrays(IMAGES[:1], name="mine")), Projection())


def test_features_in_a_bucket(bucket):
    folder = files.parse_path(str(bucket / "kept"), "--out")
    with files.replacing(folder / "x.npz") as file:
        np.savez(file, images=IMAGES)
    images, extractor = open_images(str(folder / "x.npz")), Projection()
    for _ in range(2):
        kept.statistics_of(reference(images), extractor, rows=10)
    assert extractor.calls == [40]
    assert files.names(folder) == ["x.features", "x.npz"]


def test_features_of_a_large_reference_are_not_held_together(images):
    held = []

    class Watched(Projection):
        def run(self, fetch, count, quiet=False, bar=None):
            for batch in super().run(fetch, count, quiet):
                held.append(weakref.ref(batch["features"]))
                yield batch
                assert sum(each() is not None for each in held) <= 2

    kept.statistics_of(reference(images), Watched(), rows=10)
    assert len(held) == 6
