"""Files, locks, claims and checkpoints under gs://, on an emulator of Google's storage."""

import threading

import numpy as np
import pytest
from etils import epath

from jaxdiff import arrays, buckets, claims, files, tables
from jaxdiff.errors import UserError


@pytest.fixture
def folder(bucket, request):
    return files.parse_path(str(bucket / request.node.name), "--out")


def test_files_are_written_read_listed_moved_and_removed(folder):
    assert not files.exists(folder)
    files.make_folder(folder)
    assert not files.exists(folder)
    files.write_text(folder / "a" / "b", "text")
    files.write_json(folder / "a" / "c.json", {"x": 1})
    assert files.names(folder) == ["a"]
    assert files.names(folder / "a") == ["b", "c.json"]
    assert files.is_folder(folder / "a")
    assert not files.is_folder(folder / "a" / "b")
    assert files.read_json(folder / "a" / "c.json") == {"x": 1}
    assert files.size(folder / "a" / "b") == 4
    files.write_text(folder / "a" / "b", "other")
    files.move(folder / "a", folder / "z")
    files.copy(folder / "z" / "b", folder / "d")
    assert files.read_text(folder / "d") == files.read_text(folder / "z" / "b") == "other"
    assert files.names(folder) == ["d", "z"]
    with pytest.raises(files.WriteError):
        files.move(folder / "d", folder / "z")
    for _ in range(2):
        files.remove(folder / "d")
        files.remove_tree(folder / "z")
    assert files.names(folder) == []
    with pytest.raises(UserError, match=f"{folder}/d cannot be read"):
        files.read_bytes(folder / "d")
    with pytest.raises(files.WriteError, match="gs://nobody/x cannot be written"):
        files.write_text(epath.Path("gs://nobody/x"), "")


def test_what_fails_halfway_leaves_what_there_was(folder):
    files.write_text(folder / "x", "old")
    with pytest.raises(KeyboardInterrupt), files.replacing(folder / "x") as file:  # noqa: PT012
        file.write(b"half")
        raise KeyboardInterrupt
    assert files.read_text(folder / "x") == "old"
    assert files.create(folder / "y", b"mine")
    assert not files.create(folder / "y", b"theirs")
    with pytest.raises(files.WriteError), files.replacing(folder / "y", new=True) as file:
        file.write(b"theirs")
    assert files.read_text(folder / "y") == "mine"


def test_what_another_process_writes_is_seen(folder):
    from google.cloud import storage

    files.write_text(folder / "x", "1")
    assert files.names(folder) == ["x"]
    blobs = storage.Client().bucket(folder.parent.name)
    blobs.blob(f"{folder.name}/y").upload_from_string("2")
    blobs.blob(f"{folder.name}/x").upload_from_string("longer")
    assert files.names(folder) == ["x", "y"]
    assert files.read_text(folder / "x") == "longer"
    assert files.exists(folder / "y")


def test_arrays_and_tables(folder):
    parts = arrays.Stream((4, 2), np.uint8, (np.full((2, 2), i, np.uint8) for i in (1, 2)))
    arrays.save_npz(folder / "x.npz", {"x": parts})
    np.testing.assert_array_equal(arrays.load_npz(folder / "x.npz")["x"][:, 0], [1, 1, 2, 2])
    for value in (1.0, 2.0):
        tables.add_row(folder / "x.csv", {"value": value})
    assert tables.read_rows(folder / "x.csv", {"value": float}) == [{"value": 1.0}, {"value": 2.0}]


def test_a_folder_is_copied_up_and_down_once(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXDIFF_CACHE", str(tmp_path / "cache"))
    with files.new_folder(folder / "set", last="info.json") as local:
        (local / "shards").mkdir()
        (local / "shards" / "0").write_text("zero")
        (local / "info.json").write_text("{}")
    with pytest.raises(files.WriteError), files.new_folder(folder / "set") as local:
        (local / "other").write_text("")
    assert files.names(folder / "set") == ["info.json", "shards"]
    first = files.local_copy(folder / "set")
    assert (first.name, files.names(first)) == ("set", ["info.json", "shards"])
    assert files.read_text(first / "shards" / "0") == "zero"
    monkeypatch.setattr(buckets, "download", None)  # not again
    assert files.local_copy(folder / "set") == first
    monkeypatch.undo()
    monkeypatch.setenv("JAXDIFF_CACHE", str(tmp_path / "cache"))
    files.write_text(folder / "set" / "shards" / "0", "none")
    assert files.read_text(files.local_copy(folder / "set") / "shards" / "0") == "none"
    assert files.read_text(files.local_copy(folder / "set" / "info.json")) == "{}"
    with pytest.raises(UserError, match="nothing"):
        files.local_copy(folder / "none")


def test_a_lock_is_held_by_one_and_taken_over_when_its_holder_is_dead(folder, monkeypatch):
    path = folder / ".lock"
    monkeypatch.setattr(claims, "BEAT", 0.1)
    monkeypatch.setattr(claims, "DEAD", 1.0)
    with claims.lock(path, "The folder"):
        with pytest.raises(UserError, match="in use by process"), claims.lock(path, "The folder"):
            pass
        assert files.names(folder) == [".lock"]
    assert files.names(folder) == []
    files.write_text(path, '{"pid": 1, "host": "elsewhere", "since": "2020-01-01"}')
    with claims.lock(path, "The folder"):
        assert '"elsewhere"' not in files.read_text(path)
    assert files.names(folder) == []
    # Its holder ends while another waits.
    files.write_text(path, "{}")
    monkeypatch.setattr(claims, "DEAD", 60.0)
    threading.Timer(0.2, files.remove, [path]).start()
    with claims.lock(path, "The folder"):
        pass


def test_a_folder_is_claimed_by_its_settings(folder):
    def claim(seed):
        return claims.claimed_folder(folder, {"seed": seed}, "settings.json", ("grid.png",))

    with pytest.raises(ZeroDivisionError), claim(1):
        raise ZeroDivisionError
    assert files.names(folder) == []
    with claim(1):
        files.write_bytes(folder / "grid.png", b"")
    with claim(1):
        assert files.names(folder) == [".lock", "grid.png", "settings.json"]
    with pytest.raises(UserError, match="seed"), claim(2):
        pass
    files.remove(folder / "settings.json")
    with pytest.raises(UserError, match="grid.png"), claim(1):
        pass
