import json
import pathlib

import pytest

from jaxdiff.errors import UserError
from jaxdiff.files import creating, local_path, read_json, replacing, write_json

VALUES = {"a": 1, "b": {"c": [0.5, "x"]}}


def test_what_is_written_is_read(tmp_path):
    write_json(tmp_path / "f.json", VALUES)
    assert read_json(tmp_path / "f.json", keys=("a", "b")) == VALUES
    assert [p.name for p in tmp_path.iterdir()] == ["f.json"]


def test_no_change_of_one_bit_is_believed(tmp_path):
    file = tmp_path / "f.json"
    write_json(file, VALUES)
    good = file.read_bytes()
    for position in range(len(good)):
        for bit in range(8):
            bad = bytearray(good)
            bad[position] ^= 1 << bit
            file.write_bytes(bad)
            try:
                values = read_json(file)
            except UserError:
                continue
            # A change of white space is none of the content.
            assert values == VALUES
            assert json.loads(bad) == json.loads(good)


@pytest.mark.parametrize(
    "content",
    [b"", b"null", b"[1]", b"3", b"{", b'{"a": 1', b"\xff\xfe", b'{"a": 1, "a": 2}', b"[" * 10**5],
)
def test_other_files_are_refused_in_one_line(tmp_path, content):
    file = tmp_path / "f.json"
    file.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_json(file, checksum=False)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_files_and_fields_are_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_json(tmp_path / "none.json")
    file = tmp_path / "f.json"
    file.write_text('{"a": 1}')
    assert read_json(file, checksum=False) == {"a": 1}
    with pytest.raises(UserError, match="lacks b"):
        read_json(file, keys=("a", "b"), checksum=False)
    with pytest.raises(UserError, match="checksum"):
        read_json(file)


def test_a_file_that_cannot_be_written_whole_stays_as_it_was(tmp_path):
    file = tmp_path / "f.txt"
    file.write_text("old")

    def write():
        with replacing(file) as partial:
            partial.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write()
    assert file.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["f.txt"]


@pytest.mark.parametrize("text", ["gs://bucket/x", "s3://b", "gs:/bucket", "https://host/x"])
def test_addresses_are_no_local_paths(text):
    with pytest.raises(UserError, match=r"--out is .*: give a path"):
        local_path(text, "--out")


@pytest.mark.parametrize("text", ["runs/x", "/tmp/x", "./gs", "a:b", "runs/gs://x"])
def test_other_texts_are(text):
    assert local_path(text, "--out") == pathlib.Path(text)


def test_what_is_created_is_whole_and_replaces_nothing(tmp_path):
    with creating(tmp_path / "file") as partial:
        partial.write_text("new")
    with creating(tmp_path / "folder") as partial:
        partial.mkdir()
        (partial / "a").write_text("a")
    (tmp_path / "empty").mkdir()
    with creating(tmp_path / "empty") as partial:
        partial.mkdir()
    before = sorted(tmp_path.rglob("*"))
    for name in ("file", "folder"):
        for make in (pathlib.Path.touch, pathlib.Path.mkdir):
            refused = pytest.raises(OSError, match="exist|not empty|Not a directory")
            with refused, creating(tmp_path / name) as partial:
                make(partial)
    with pytest.raises(ZeroDivisionError), creating(tmp_path / "none") as partial:  # noqa: PT012
        partial.mkdir()
        (partial / "a").write_text("a")
        raise ZeroDivisionError
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "file").read_text() == "new"
