"""npz files of which rows are read when they are asked for, however they are stored."""

import zipfile

import numpy as np
import pytest

from jaxdiff import arrays, files
from jaxdiff.errors import UserError
from tests.data.preparing import noise

ROWS = [5, 6, 7, 0, 3, 3, 19]


@pytest.fixture
def images():
    return noise(20, 4, 3, 3)


def written(path, version=None, save=np.savez, **content):
    """A file of these arrays; with a version, of headers of that version of the format."""
    if version is None:
        save(path, **content)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            for name, array in content.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, version)
    return files.parse_path(path, "The file")


@pytest.mark.parametrize("version", [None, (1, 0), (2, 0), (3, 0)])
def test_rows_of_an_array_as_it_is_stored(tmp_path, images, version):
    path = written(tmp_path / "x.npz", version, label=np.arange(20), arr_0=images)
    found = arrays.open_npz(path)
    assert {*found} == {"label", "arr_0"}
    assert (found["arr_0"].shape, found["arr_0"].dtype) == (images.shape, np.uint8)
    assert found["arr_0"].offset is not None
    np.testing.assert_array_equal(found["arr_0"].read(ROWS), images[ROWS])
    np.testing.assert_array_equal(found["label"].read(np.array(ROWS)), ROWS)
    np.testing.assert_array_equal(found["arr_0"].all(), images)
    assert found["arr_0"].read([]).shape == (0, 4, 3, 3)


def test_rows_of_what_is_compressed_or_in_fortran_s_order(tmp_path, images):
    content = {"a": images, "b": np.arange(3)}
    for path in (
        written(tmp_path / "c.npz", save=np.savez_compressed, **content),
        written(tmp_path / "f.npz", a=np.asfortranarray(images), b=np.arange(3)),
    ):
        found = arrays.open_npz(path)
        assert found["a"].offset is None
        np.testing.assert_array_equal(found["a"].read(ROWS), images[ROWS])


def test_rows_in_a_bucket(bucket, images):
    path = files.parse_path(str(bucket / "rows.npz"), "The file")
    arrays.save_npz(path, {"a": images, "b": np.float64(2)})
    found = arrays.open_npz(path)
    np.testing.assert_array_equal(found["a"].read(ROWS), images[ROWS])
    assert found["b"].all() == 2


def test_corrupt_files_are_one_sentence(tmp_path, images):
    whole = tmp_path / "x.npz"
    path = written(whole, arr_0=images)
    content = whole.read_bytes()
    found = arrays.open_npz(path)
    arrays.check_npz(path)
    for broken in (content[:-200], content[:300], b"", b"PNG"):
        whole.write_bytes(broken)
        with pytest.raises(UserError, match=r"x\.npz cannot be read as an npz file"):
            arrays.open_npz(path)
    place = content.index(images.tobytes()) + 100
    whole.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    with pytest.raises(UserError, match=r"x\.npz cannot be read as an npz file"):
        arrays.check_npz(path)
    whole.write_bytes(content[:400])
    with pytest.raises(UserError, match="shorter than it was"):
        found["arr_0"].read([19])


def test_an_array_of_objects_does_not_stop_the_others(tmp_path, images):
    path = written(tmp_path / "x.npz", arr_0=images, notes=np.array([{"a": 1}], object))
    found = arrays.open_npz(path)
    np.testing.assert_array_equal(found["arr_0"].read([1]), images[[1]])
    with pytest.raises(UserError, match="cannot be read as an npz file"):
        found["notes"].all()
