import gc
import logging
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.checkpoints.fingerprint import changed, fingerprint
from jaxdiff.checkpoints.store import Damaged, Store, complete_steps, read, read_meta, shapes
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
    with pytest.raises(Damaged, match="ema"):
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
        with pytest.raises(Damaged, match="ema cannot be read"):
            read(tmp_path, 1, {"ema": template(values, one_device)})
        gc.collect()
    assert complaints == []


def test_damaged_metadata_is_noticed(saved, one_device):
    (saved / "2" / "meta" / "metadata").write_text("{")
    with pytest.raises(Damaged, match="metadata"):
        read_meta(saved, 2)


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
    with pytest.raises(Damaged):
        read(saved, 2, {"ema": part})


@pytest.mark.parametrize("partly", [False, True])
def test_arrays_of_other_shapes_are_noticed(saved, one_device, partly):
    values = tree()
    values["half"] = values["half"][:5]
    with pytest.raises(Damaged, match="ema"):
        read(saved, 2, {"ema": template(values, one_device)}, partly=partly)


def test_the_shapes_of_an_item_are_known_without_reading_it(saved):
    expected = jax.tree.map(lambda x: (x.shape, x.dtype), tree())
    assert jax.tree.map(lambda x: (x.shape, x.dtype), shapes(saved, 2, "ema")) == expected
    with pytest.raises(Damaged, match="nothing cannot be read"):
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
