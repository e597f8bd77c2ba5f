import contextlib
import gc
import json
import logging
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.checkpoints.checkpointer import (
    CorruptCheckpoint,
    Store,
    complete_steps,
    read,
    read_meta,
    shapes,
    writing,
)
from jaxdiff.checkpoints.fingerprint import changed, fingerprint
from jaxdiff.errors import UserError
from jaxdiff.parallel.mesh import make_mesh, parameter_sharding, placed
from tests.disk import small_files


def tree(seed=0):
    random = np.random.RandomState(seed)
    return {
        "layer": {"kernel": jnp.asarray(random.standard_normal((128, 256)), jnp.float32)},
        "half": jnp.asarray(random.standard_normal(7), jnp.bfloat16),
        "count": jnp.int32(seed),
    }


def template(values, mesh):
    return placed(values, parameter_sharding(mesh, values))


@pytest.fixture
def saved(tmp_path):
    store = Store(tmp_path / "store")
    for step in (1, 2):
        store.save(step, {"ema": tree(step)}, {"step": step})
    store.close()
    return tmp_path / "store"


def test_what_is_read_is_what_was_written(saved, one_device):
    items, meta = read(saved, 2, {"ema": template(tree(), one_device)})
    jax.tree.map(np.testing.assert_array_equal, items["ema"], tree(2))
    assert items["ema"]["half"].dtype == jnp.bfloat16
    assert meta["step"] == 2
    assert complete_steps(saved) == [1, 2]


def test_it_is_read_into_another_sharding(saved):
    mesh = make_mesh(8)
    items, _ = read(saved, 1, {"ema": template(tree(), mesh)})
    kernel = items["ema"]["layer"]["kernel"]
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(128, 32)}
    np.testing.assert_array_equal(kernel, tree(1)["layer"]["kernel"])


def test_later_changes_do_not_reach_a_save_in_progress(tmp_path, one_device):
    store = Store(tmp_path)
    values = tree()
    expected = jax.tree.map(np.array, values)
    store.save(3, {"ema": values}, {})
    jax.jit(lambda t: jax.tree.map(lambda x: x * 0, t), donate_argnums=0)(values)
    store.close()
    items, _ = read(tmp_path, 3, {"ema": template(expected, one_device)})
    jax.tree.map(np.testing.assert_array_equal, items["ema"], expected)


def test_old_steps_are_dropped_and_a_step_is_never_overwritten(tmp_path, one_device):
    store = Store(tmp_path, keep=2)
    for step in (1, 2, 3):
        store.save(step, {"ema": tree(step)}, {})
    store.save(3, {"ema": tree(9)}, {})
    store.close()
    assert complete_steps(tmp_path) == [2, 3]
    items, _ = read(tmp_path, 3, {"ema": template(tree(), one_device)})
    assert int(items["ema"]["count"]) == 3


def data_files(folder):
    return [p for p in folder.rglob("*") if p.is_file() and p.stat().st_size > 10_000]


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize("damage", [flip, truncate, lambda path: path.unlink()])
def test_damaged_files_are_noticed(saved, one_device, damage):
    files = data_files(saved / "2")
    assert files
    for path in files:
        damage(path)
    with pytest.raises(CorruptCheckpoint, match="ema"):
        read(saved, 2, {"ema": template(tree(), one_device)})
    read(saved, 1, {"ema": template(tree(), one_device)})


def test_a_damaged_step_leaves_nothing_on_stderr(tmp_path, one_device, monkeypatch):
    complaints = []
    monkeypatch.setattr(sys, "unraisablehook", lambda found: complaints.append(str(found)))
    values = {str(i): tree(i) for i in range(20)}
    store = Store(tmp_path)
    store.save(1, {"ema": values}, {})
    store.close()
    for path in data_files(tmp_path):
        path.unlink()
    for _ in range(3):
        with pytest.raises(CorruptCheckpoint, match="ema cannot be read"):
            read(tmp_path, 1, {"ema": template(values, one_device)})
        gc.collect()
    assert complaints == []


def test_no_flipped_bit_of_a_step_s_metadata_is_believed(saved):
    path = saved / "2" / "meta" / "metadata"
    text, meta = path.read_bytes(), read_meta(saved, 2)
    assert meta["step"] == 2
    believed = []
    for position in range(len(text)):
        damaged = bytearray(text)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        with contextlib.suppress(CorruptCheckpoint):
            believed.append(read_meta(saved, 2))
    # Those where the checksum's own name is damaged and nothing else.
    assert len(believed) <= len("checksum")
    assert all(found.items() >= meta.items() for found in believed)


def test_metadata_of_another_step_is_noticed(saved):
    shutil.copy(saved / "1" / "meta" / "metadata", saved / "2" / "meta" / "metadata")
    with pytest.raises(CorruptCheckpoint, match="step 1"):
        read_meta(saved, 2)


def test_arrays_of_another_step_are_noticed(tmp_path, one_device):
    store = Store(tmp_path)
    state = {"step": jnp.int32(3)}
    for step in (3, 4):
        store.save(step, {"step": state}, {})
    store.close()
    template_ = {"step": template(state, one_device)}
    assert read(tmp_path, 3, template_)[0]["step"] == state
    with pytest.raises(CorruptCheckpoint, match="of step 3"):
        read(tmp_path, 4, template_)


# What a version without checksums may have left.
@pytest.mark.parametrize(
    "values",
    [
        None,
        [],
        {},
        {"step": 2},
        {"step": 2, "fingerprints": []},
        {"step": 2, "fingerprints": {"ema": 5}},
        {"step": 2, "fingerprints": {"ema": {"x": "5"}}},
        {"step": "2", "fingerprints": {}},
        {"step": 1, "fingerprints": {}},
        {"step": 2, "batch": 3, "fingerprints": {}},
        {"step": 2, "batch": -2, "fingerprints": {}},
        {"step": 2, "ema": "x", "fingerprints": {}},
        {"step": 2, "ema": [], "fingerprints": {}},
        {"step": 2, "dtype": "float8", "fingerprints": {}},
        {"step": 2, "bad": {"total": 1}, "fingerprints": {}},
        {"step": 2, "bad": {"total": 1, "in_row": 0, "first": -1}, "fingerprints": {}},
    ],
)
def test_metadata_that_cannot_be_right_is_noticed(saved, one_device, values):
    path = saved / "2" / "meta" / "metadata"
    path.write_text(json.dumps({"step": 2, "batch": 2, "ema": ["x"], "fingerprints": {}}))
    assert read_meta(saved, 2)["ema"] == ["x"]
    with pytest.raises(CorruptCheckpoint, match="fingerprints of ema"):
        read(saved, 2, {"ema": template(tree(), one_device)})
    path.write_text(json.dumps(values))
    with pytest.raises(CorruptCheckpoint, match="metadata"):
        read_meta(saved, 2)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000, None])
def test_damaged_metadata_is_noticed(saved, content):
    path = saved / "2" / "meta" / "metadata"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(CorruptCheckpoint, match="metadata"):
        read_meta(saved, 2)


def test_folders_whose_names_are_no_steps_do_not_count(saved):
    for name in ("²", "007", "٣", "x", "-1"):
        (saved / name / "meta").mkdir(parents=True)
        (saved / name / "meta" / "metadata").touch()
    assert complete_steps(saved) == [1, 2]


@pytest.mark.parametrize("content", [b"[]", b"[" * 100_000, b"", b"\xff"])
def test_a_step_whose_notes_by_orbax_are_damaged_is_used(saved, one_device, content):
    (saved / "2" / "_CHECKPOINT_METADATA").write_bytes(content)
    store = Store(saved, keep=2)
    store.set_aside(after=2)
    store.save(3, {"ema": tree(3)}, {})
    store.close()
    assert complete_steps(saved) == [2, 3]
    read(saved, 2, {"ema": template(tree(), one_device)})


def test_half_written_steps_do_not_count(saved):
    (saved / "7").mkdir()
    (saved / "8.orbax-checkpoint-tmp").mkdir()
    assert complete_steps(saved) == [1, 2]


def test_steps_set_aside_are_moved_not_lost(saved):
    (saved / "7").mkdir()
    store = Store(saved)
    store.set_aside(after=1)
    store.save(2, {"ema": tree(5)}, {})
    store.close()
    assert complete_steps(saved) == [1, 2]
    aside = saved.parent / "damaged"
    assert sorted(path.name for path in aside.iterdir()) == ["store-2", "store-7"]
    assert read_meta(aside, "store-2")["step"] == 2


def test_a_fingerprint_notices_any_change_of_one_value():
    array = np.random.RandomState(0).standard_normal((5, 7)).astype(np.float32)
    before = fingerprint({"x": jnp.asarray(array)})
    for position in range(array.size):
        other = array.copy()
        other.reshape(-1)[position] = np.nextafter(array.reshape(-1)[position], 9)
        assert changed({"x": jnp.asarray(other)}, before) == ["x"]
    assert changed({"x": jnp.asarray(array)}, before) == []


def test_a_fingerprint_notices_exchanged_values_and_missing_leaves():
    before = fingerprint({"x": jnp.array([1.0, 2.0]), "y": jnp.array(3)})
    assert changed({"x": jnp.array([2.0, 1.0]), "y": jnp.array(3)}, before) == ["x"]
    assert changed({"x": jnp.array([1.0, 2.0])}, before) == ["y"]


def test_a_fingerprint_does_not_depend_on_the_sharding():
    values = tree()
    spread = jax.device_put(values, parameter_sharding(make_mesh(8), values))
    assert fingerprint(spread) == fingerprint(values)


def test_a_part_of_an_item_is_read_alone(saved, one_device):
    part = {"layer": template(tree(), one_device)["layer"]}
    items, _ = read(saved, 2, {"ema": part}, partly=True)
    jax.tree.map(np.testing.assert_array_equal, items["ema"], {"layer": tree(2)["layer"]})
    with pytest.raises(CorruptCheckpoint):
        read(saved, 2, {"ema": part})


@pytest.mark.parametrize("partly", [False, True])
def test_arrays_of_other_shapes_are_noticed(saved, one_device, partly):
    values = tree()
    values["half"] = values["half"][:5]
    with pytest.raises(CorruptCheckpoint, match="ema"):
        read(saved, 2, {"ema": template(values, one_device)}, partly=partly)


def test_the_shapes_of_an_item_are_known_without_reading_it(saved):
    expected = jax.tree.map(lambda x: (x.shape, x.dtype), tree())
    assert jax.tree.map(lambda x: (x.shape, x.dtype), shapes(saved, 2, "ema")) == expected
    with pytest.raises(CorruptCheckpoint, match="nothing cannot be read"):
        shapes(saved, 2, "nothing")


@pytest.mark.parametrize("size", [100, 10_000])
def test_a_full_disk_is_said_in_a_sentence_and_loses_nothing(saved, one_device, size, caplog):
    caplog.set_level(logging.CRITICAL, "absl")  # what orbax logs would not fit into a file either
    store = Store(saved)
    store.save(3, {"ema": tree(3)}, {"step": 3})
    store.wait()
    words = r"store cannot be written \(File too large\): make room"
    for end in (store.wait, store.close):
        with small_files(size), pytest.raises(UserError, match=words):  # noqa: PT012
            store.save(4, {"ema": tree(4)}, {"step": 4})  # one of the two says it
            end()
    assert complete_steps(saved) == [1, 2, 3]
    store = Store(saved)
    store.save(4, {"ema": tree(4)}, {"step": 4})
    store.close()
    items, _ = read(saved, 4, {"ema": template(tree(), one_device)})
    jax.tree.map(np.testing.assert_array_equal, items["ema"], tree(4))


def test_a_folder_that_cannot_be_made_is_said_in_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"store cannot be written \(Not a directory\)"):
        Store(tmp_path / "file" / "store")


def test_only_what_the_disk_refuses_is_said_to_be_the_disk_s():
    with pytest.raises(ValueError, match="^a fault of the program$"), writing("folder"):
        raise ValueError("a fault of the program")
    text = "Error writing x: [y]: No space left on device [os_error_code='28'] [source]"
    with pytest.raises(UserError, match=r"\(No space left on device\)"), writing("folder"):
        raise ValueError(text)
