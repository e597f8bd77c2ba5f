import json
import pathlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from etils import epath

from jaxdiff import arrays, files, tables
from jaxdiff.errors import UserError
from tests.disk import small_files, with_mode

VALUES = {"a": 1, "b": {"c": [0.5, "x"]}}


@pytest.fixture
def folder(tmp_path):
    return epath.Path(tmp_path)


@pytest.mark.parametrize(
    "text", ["gs:/bucket", "gs://", "gs:///x", "https://host/x", "file:///x", "az://b/x"]
)
def test_addresses_that_cannot_be_opened_are_refused(text):
    with pytest.raises(UserError, match=r"^--out is "):
        files.parse_path(text, "--out")


@pytest.mark.parametrize("text", ["runs/x", "/tmp/x", "./gs", "a:b", "runs/a@5:x", "gs://b/x:y"])
def test_other_texts_are_paths(text):
    path = files.parse_path(text, "--out")
    assert isinstance(path, epath.Path)
    assert str(path) == str(epath.Path(text))
    assert files.is_remote(path) == text.startswith("gs://")


def test_json_is_read_as_it_was_written_and_no_flipped_bit_is_believed(folder):
    file = folder / "new" / "f.json"
    files.write_json(file, VALUES)
    assert files.read_json(file, keys=("a", "b")) == VALUES
    assert files.names(folder / "new") == ["f.json"]
    good = file.read_bytes()
    for position in range(len(good)):
        bad = bytearray(good)
        bad[position] ^= 1 << position % 8
        file.write_bytes(bad)
        try:
            values = files.read_json(file)
        except UserError:
            continue
        # White space, and the name of the checksum itself, are none of the content.
        assert values.items() >= VALUES.items()


@pytest.mark.parametrize(
    "content", [b"", b"null", b"[1]", b"{", b"\xff\xfe", b'{"a": 1, "a": 2}', b"[" * 10**5, b"{}"]
)
def test_other_content_is_refused_in_one_line(folder, content):
    (folder / "f.json").write_bytes(content)
    with pytest.raises(UserError) as error:
        files.read_json(folder / "f.json", keys=("a",))
    assert str(folder / "f.json") in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_is_replaced_whole_or_not_at_all(folder):
    file = folder / "f"
    files.write_text(file, "old")
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error), files.replacing(file) as partial:  # noqa: PT012
            partial.write(b"half")
            raise error
    with small_files(100), pytest.raises(files.WriteError, match=r"f .* \(File too large\)"):
        files.write_bytes(file, bytes(1000))
    with files.replacing(file) as outer:  # two programs that write one file do not meet
        outer.write(b"outer")
        files.write_text(file, "inner")
        assert files.read_text(file) == "inner"
    assert files.read_text(file) == "outer"
    with pytest.raises(files.WriteError), files.replacing(file, new=True) as partial:
        partial.write(b"new")
    assert (files.read_text(file), files.names(folder)) == ("outer", ["f"])


def test_what_is_new_replaces_nothing(folder):
    with files.replacing(folder / "file", new=True) as partial:
        partial.write(b"mine")
        assert not files.exists(folder / "file")
    (folder / "empty").mkdir()
    for name in ("empty", "folder"):
        with files.new_folder(folder / name) as partial:
            (partial / "a").write_text("a")
    for name in ("file", "folder"):
        with pytest.raises(files.WriteError), files.new_folder(folder / name) as partial:
            (partial / "b").write_text("b")
    with pytest.raises(ZeroDivisionError), files.new_folder(folder / "none") as partial:
        raise ZeroDivisionError
    assert files.names(folder) == ["empty", "file", "folder"]
    assert files.names(folder / "folder") == ["a"]
    assert files.read_bytes(folder / "file") == b"mine"


def test_files_and_folders_are_moved_copied_and_removed(folder):
    files.write_text(folder / "a" / "b" / "c", "text")
    files.move(folder / "a", folder / "x" / "y")
    files.copy(folder / "x" / "y" / "b" / "c", folder / "d")
    assert files.read_text(folder / "d") == "text"
    with pytest.raises(files.WriteError):
        files.move(folder / "d", folder / "x")
    assert files.is_folder(folder / "x")
    assert not files.is_folder(folder / "d")
    for _ in range(2):
        files.remove(folder / "d")
        files.remove_tree(folder / "x")
    assert files.names(folder) == []


def test_several_may_remove_a_folder_at_once(folder):
    for number in range(300):
        files.write_text(folder / "all" / str(number % 3) / str(number), "x")
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(files.remove_tree, [folder / "all"] * 4))
    assert files.names(folder) == []


def test_what_is_not_there_and_what_may_not_be_read(folder):
    file = folder / "file"
    file.touch()
    assert files.names(folder / "none") == files.names(file) == []
    assert not files.exists(folder / "none" / "x")
    assert not files.exists(file / "x")
    for path in (folder / "none", folder):
        with pytest.raises(UserError, match=f"{path} cannot be read"):
            files.read_bytes(path)
    for path in (folder / ("x" * 300), folder / "sub"):
        (folder / "sub").mkdir(exist_ok=True)
        with with_mode(pathlib.Path(folder / "sub"), 0), pytest.raises(UserError, match="read"):
            files.exists(path / "x")
    with pytest.raises(UserError, match=r"cannot be written \(Not a directory\)"):
        files.write_text(file / "x" / "y", "")


def test_arrays_are_read_as_they_were_written_and_streamed(folder):
    whole = np.arange(24, dtype=np.float32).reshape(6, 4)
    parts = arrays.Stream((6, 4), np.float32, (whole[i : i + 2] for i in (0, 2, 4)))
    arrays.save_npz(folder / "a.npz", {"x": whole, "name": "text"})
    arrays.save_npz(folder / "b.npz", {"x": parts, "name": "text"})
    assert files.read_bytes(folder / "a.npz") == files.read_bytes(folder / "b.npz")
    found = arrays.load_npz(folder / "b.npz")
    np.testing.assert_array_equal(found["x"], whole)
    assert str(found["name"]) == "text"
    assert list(arrays.load_npz(folder / "b.npz", ["name"])) == ["name"]
    content = files.read_bytes(folder / "a.npz")
    np.savez(folder / "objects.npz", x=np.array([{}], object))
    for bad in (b"", b"text", content[:-30], files.read_bytes(folder / "objects.npz")):
        (folder / "a.npz").write_bytes(bad)
        with pytest.raises(UserError, match=r"a\.npz cannot be read"):
            arrays.load_npz(folder / "a.npz")
    with pytest.raises(UserError, match="other"):
        arrays.load_npz(folder / "b.npz", ["other"])


COLUMNS = {"name": str, "value": float}


def test_rows_are_read_as_they_were_added(folder):
    path = folder / "x.csv"
    assert tables.read_rows(path, COLUMNS) == []
    rows = [{"name": "a, b\n", "value": 1.5}, {"name": "", "value": float("inf")}]
    for row in rows:
        tables.add_row(path, row)
    assert tables.read_rows(path, COLUMNS) == rows


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("name\na\n", 1),
        ("value,name\n1,a\n", 1),
        ("name,value\na,1\nb\n", 3),
        ("name,value\na,1,2\n", 2),
        ("name,value\na,\n", 2),
        ("name,value\na,1\n\nb,2\n", 3),
        ('name,value\n"a,1\n', 2),
    ],
)
def test_other_rows_are_refused_by_their_line(folder, text, line):
    (folder / "x.csv").write_text(text)
    with pytest.raises(UserError, match=f"Line {line} of "):
        tables.read_rows(folder / "x.csv", COLUMNS)


def test_json_text_says_what_it_holds():
    assert json.loads(files.json_text(VALUES)).items() >= VALUES.items()
