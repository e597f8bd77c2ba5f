import io
import json
import math
import pathlib
import zipfile

import numpy as np
import pytest

from jaxdiff import results
from jaxdiff.errors import UserError
from jaxdiff.files import write_json

SETTINGS = {"seed": 3, "classes": (1, 2)}
OWN = ("samples_*.npz", "grid.png")


def claim(out, settings=SETTINGS):
    return results.claimed_folder(out, settings, "settings.json", OWN)


def refused(function, *args):
    """The sentence that a call is refused with."""
    with pytest.raises(UserError) as caught:
        function(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def enter(context):
    with context:
        pass


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_folder_is_claimed_before_work_and_stays_so(tmp_path):
    out = tmp_path / "a" / "b"
    with claim(out):
        kept = json.loads((out / "settings.json").read_text())
        assert (kept["seed"], kept["classes"]) == (3, [1, 2])
        assert "is in use by process" in refused(enter, claim(out))
        assert "is in use by process" in refused(enter, claim(out, {**SETTINGS, "seed": 4}))
        (out / "grid.png").write_bytes(b"done")
    assert names(out) == ["grid.png", "settings.json"]
    assert "seed" in refused(enter, claim(out, {**SETTINGS, "seed": 4}))
    assert "steps" in refused(enter, claim(out, {**SETTINGS, "steps": 5}))
    assert "classes" in refused(enter, claim(out, {"seed": 3}))
    with claim(out):  # the same request continues
        assert (out / "grid.png").read_bytes() == b"done"


def test_what_fails_before_there_is_a_result_leaves_the_folder_free(tmp_path):
    out = tmp_path / "out"
    for error in (UserError("no"), KeyboardInterrupt()):
        with pytest.raises(type(error)), claim(out):
            raise error
        assert not out.exists()

    def fail_late():
        with claim(out):
            (out / "grid.png").touch()
            raise UserError("no")

    refused(fail_late)
    assert names(out) == ["grid.png", "settings.json"]


@pytest.mark.parametrize("name", ["grid.png", "samples_4x8x8x1.npz"])
def test_files_of_somebody_else_are_not_overwritten(tmp_path, name):
    (tmp_path / name).write_bytes(b"theirs")
    (tmp_path / "notes.txt").touch()
    assert name in refused(enter, claim(tmp_path))
    assert names(tmp_path) == sorted([name, "notes.txt"])
    assert (tmp_path / name).read_bytes() == b"theirs"


@pytest.mark.parametrize("name", ["config.json", "dataset_info.json"])
def test_folders_of_runs_and_datasets_are_refused(tmp_path, name):
    (tmp_path / name).touch()
    assert name in refused(enter, claim(tmp_path))
    assert names(tmp_path) == [name]


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "{", '{"seed": 3}', '{"seed": 3, "checksum": "x"}']
)
def test_settings_that_are_damaged_are_refused(tmp_path, text):
    (tmp_path / "settings.json").write_text(text)
    assert "settings.json" in refused(enter, claim(tmp_path))
    assert (tmp_path / "settings.json").read_text() == text


def test_places_that_cannot_be_are_refused(tmp_path):
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "x", tmp_path / ("x" * 5000)):
        assert "cannot be written" in refused(enter, claim(out))


def test_a_file_is_claimed_and_only_its_own_request_replaces_it(tmp_path):
    path = tmp_path / "new" / "x.npz"
    with results.claimed_file(path, SETTINGS):
        assert "is in use by process" in refused(enter, results.claimed_file(path, SETTINGS))
        results.save(path, SETTINGS, {"a": np.arange(3)})
    assert names(path.parent) == ["x.npz"]
    enter(results.claimed_file(path, SETTINGS))
    assert "seed" in refused(enter, results.claimed_file(path, {**SETTINGS, "seed": 4}))
    for content in (b"", b"text", path.read_bytes()[:-30]):
        path.write_bytes(content)
        assert "x.npz" in refused(enter, results.claimed_file(path, SETTINGS))
        assert path.read_bytes() == content
    np.savez(path, a=1)
    assert "x.npz" in refused(enter, results.claimed_file(path, SETTINGS))
    np.savez(path, settings="[]")
    assert "x.npz" in refused(enter, results.claimed_file(path, SETTINGS))
    refused(enter, results.claimed_file(tmp_path, SETTINGS))


def test_programs_that_write_one_file_do_not_meet(tmp_path):
    path = tmp_path / "x"

    def write(file):
        file.write(b"outer")
        results.replace(path, lambda other: other.write(b"inner"))
        assert path.read_bytes() == b"inner"

    results.replace(path, write)
    assert path.read_bytes() == b"outer"
    assert names(tmp_path) == ["x"]


def test_a_disk_that_takes_no_more_is_said_in_a_sentence(tmp_path):
    def full(file):
        raise OSError(28, "No space left on device")

    assert "No space left" in refused(results.replace, tmp_path / "x", full)
    assert not names(tmp_path)


def npz_claiming(shape, dtype, content, compression=zipfile.ZIP_STORED):
    header, file = io.BytesIO(), io.BytesIO()
    fields = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, fields)
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("arr_0.npy", header.getvalue() + content)
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        npz_claiming((7_000_000_000,), "<f4", bytes(4096)),
        npz_claiming((10**30,), "|u1", bytes(16)),
        npz_claiming((2, 2), "<f4", bytes(2**20), zipfile.ZIP_DEFLATED),
        npz_claiming((2, 2), "|O", bytes(32)),
        b"",
        b"\x93NUMPY\x01\x00",
    ],
    ids=["28 GB", "10^30 bytes", "a longer member", "objects", "empty", "npy"],
)
def test_files_that_are_no_arrays_are_refused_before_memory_is_taken(tmp_path, content):
    path = tmp_path / "x.npz"
    path.write_bytes(content)
    assert "x.npz" in refused(results.load, path)


def test_arrays_larger_than_the_memory_are_refused(tmp_path, monkeypatch):
    np.savez(tmp_path / "x.npz", a=np.zeros(100), b=np.zeros(100))
    assert results.load(tmp_path / "x.npz")["b"].shape == (100,)
    monkeypatch.setattr(results, "physical_memory", lambda: 1599)
    assert "memory" in refused(results.load, tmp_path / "x.npz")


COLUMNS = {"name": str, "value": float}


def test_rows_are_read_as_they_were_added(tmp_path):
    path = tmp_path / "x.csv"
    assert results.read_rows(path, COLUMNS) == []
    rows = [{"name": "a, b", "value": 1.5}, {"name": "", "value": math.inf}]
    for row in rows:
        results.add_row(path, row)
    path.write_text(path.read_text() + "c,2")  # cut off while it was written
    assert results.read_rows(path, COLUMNS) == rows
    results.add_row(path, {"name": "d", "value": 3.0})
    assert results.read_rows(path, COLUMNS)[2:] == [{"name": "d", "value": 3.0}]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("name\na\n", 1),
        ("value,name\n1,a\n", 1),
        ("name,value,more\na,1,2\n", 1),
        ("name,value\na,1\nb\n", 3),
        ("name,value\na,1,2\n", 2),
        ("name,value\na,\n", 2),
        ("name,value\na,²\n", 2),
        ("name,value\na,1\n\nb,2\n", 3),
        ('name,value\n"a,1\n', 2),
    ],
)
def test_other_rows_are_refused_by_their_line(tmp_path, text, line):
    (tmp_path / "x.csv").write_text(text)
    said = refused(results.read_rows, tmp_path / "x.csv", COLUMNS)
    assert f"Line {line} of " in said


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"name,value\n\xff,1\n")
    assert "x.csv" in refused(results.read_rows, tmp_path / "x.csv", COLUMNS)


def test_a_folder_of_samples_that_cannot_be_read_is_refused():
    refused(results.samples_file, pathlib.Path("x" * 5000))


def test_a_claim_that_was_changed_is_not_believed(tmp_path):
    write_json(tmp_path / "settings.json", {"seed": 3, "classes": [1, 2]})
    enter(claim(tmp_path))
    file = tmp_path / "settings.json"
    file.write_text(file.read_text().replace("3", "4"))
    assert "settings.json" in refused(enter, claim(tmp_path, {**SETTINGS, "seed": 4}))
