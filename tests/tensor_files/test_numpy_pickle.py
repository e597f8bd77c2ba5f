"""Pickles of NumPy arrays are read as Python reads them, and nothing in them runs."""

import pickle

import numpy as np
import pytest
from etils import epath

from jaxdiff.errors import UserError
from jaxdiff.tensor_files.numpy_pickle import read

RANDOM = np.random.default_rng(0)
VALUES = {
    "num_images": 50_000,
    "count": np.int64(3),
    "fid": {"mu": RANDOM.normal(size=5), "sigma": np.asfortranarray(RANDOM.normal(size=(5, 5)))},
    "other": {"mu": np.arange(3, dtype=">f4"), "sigma": np.ones((3, 3), np.float32)[:, ::-1]},
    "note": "text",
}


def write(path, content):
    path.write_bytes(content)
    return epath.Path(path)


def changed(content):
    """The same pickle as NumPy before version 2 wrote it."""
    return content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_arrays_are_as_python_reads_them(tmp_path, protocol):
    content = pickle.dumps(VALUES, protocol)
    expected = pickle.loads(content)
    for each in (content, *([changed(content)] if protocol == 3 else [])):
        got = read(write(tmp_path / "x.pkl", each))
        assert [*got] == [*VALUES]
        assert (got["num_images"], int(got["count"]), got["note"]) == (50_000, 3, "text")
        for name in ("fid", "other"):
            for part in ("mu", "sigma"):
                np.testing.assert_array_equal(got[name][part], expected[name][part])
                assert got[name][part].dtype.str[1:] == expected[name][part].dtype.str[1:]


class Command:
    """Unpickled by Python, makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_nothing_runs(tmp_path):
    marker = tmp_path / "ran"
    content = pickle.dumps({"fid": Command(marker)}, 4)
    with pytest.raises(UserError, match=r"x\.pkl names '_?io.open', which is no array"):
        read(write(tmp_path / "x.pkl", content))
    assert not marker.exists()
    pickle.loads(content)["fid"].close()
    assert marker.exists(), "Python's own unpickler runs it"


@pytest.mark.parametrize(
    "value",
    [
        [1, 2],
        {"a": np.array([{}], object)},
        {"a": np.array(["x"])},
        {"a": np.zeros(1, [("x", "f4")])},
        {1: np.zeros(2)},
        {"a": [np.zeros(2)]},
        {"a": {"b": {"c": {"d": {"e": {}}}}}},
        {"a": np.dtype("f4")},
        {"a": np.zeros(1, "M8[s]")},
    ],
)
def test_what_is_no_dict_of_arrays(tmp_path, value):
    with pytest.raises(UserError, match=r"x\.pkl is incomplete, corrupt, or no pickle of arrays"):
        read(write(tmp_path / "x.pkl", pickle.dumps(value, 4)))


def test_few_dicts_that_hold_each_other_many_times_are_few(tmp_path):
    value = {"mu": np.zeros(2)}
    for _ in range(3):  # a walk through all would see 10^9 of them
        value = dict.fromkeys(map(str, range(1000)), value)
    found = read(write(tmp_path / "x.pkl", pickle.dumps(value, 4)))
    assert found["0"] is found["999"]


def test_changed_bytes_make_arrays_or_a_sentence(tmp_path):
    content = pickle.dumps({"n": 3, "fid": {"mu": np.arange(4.0), "sigma": np.eye(2)}}, 4)
    seen = 0
    for place in range(len(content)):
        for byte in (content[place] ^ 1, content[place] ^ 128):
            broken = content[:place] + bytes([byte]) + content[place + 1 :]
            try:
                assert isinstance(read(write(tmp_path / "x.pkl", broken)), dict)
            except UserError:
                seen += 1
    assert seen > len(content) // 2
    for length in range(0, len(content), 7):
        with pytest.raises(UserError, match="incomplete"):
            read(write(tmp_path / "x.pkl", content[:length]))
