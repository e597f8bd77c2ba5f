import contextlib
import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from jaxdiff import files
from jaxdiff.checkpoints.checkpointer import (
    Checkpointer,
    CorruptCheckpoint,
    complete_steps,
    read,
    read_meta,
    same_steps,
    shapes,
)
from jaxdiff.checkpoints.fingerprint import changed, fingerprint
from jaxdiff.parallel import processes
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


def save(folder, *steps, keep=None):
    with contextlib.closing(Checkpointer(folder, keep)) as steps_:
        for step in steps:
            steps_.save(step, {"ema": tree(step)}, {"more": ["x"]})


@pytest.fixture
def saved(tmp_path):
    save(epath.Path(tmp_path) / "steps", 1, 2)
    return epath.Path(tmp_path) / "steps"


def test_what_is_read_is_what_was_written(saved, one_device):
    items, meta = read(saved, 2, {"ema": template(tree(), one_device)})
    jax.tree.map(np.testing.assert_array_equal, items["ema"], tree(2))
    assert items["ema"]["half"].dtype == jnp.bfloat16
    assert (meta["step"], meta["more"]) == (2, ["x"])
    assert complete_steps(saved) == [1, 2]
    # A part of an item alone, and into another sharding.
    part = {"layer": template(tree(), make_mesh(8))["layer"]}
    items, _ = read(saved, 1, {"ema": part}, partly=True)
    kernel = items["ema"]["layer"]["kernel"]
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(128, 32)}
    jax.tree.map(np.testing.assert_array_equal, items["ema"], {"layer": tree(1)["layer"]})
    expected = jax.tree.map(lambda x: (x.shape, x.dtype), tree())
    assert jax.tree.map(lambda x: (x.shape, x.dtype), shapes(saved, 2, "ema")) == expected


def test_later_changes_do_not_reach_a_save_in_progress(tmp_path, one_device):
    values = tree()
    expected = jax.tree.map(np.array, values)
    with contextlib.closing(Checkpointer(epath.Path(tmp_path))) as steps:
        steps.save(3, {"ema": values}, {})
        jax.jit(lambda t: jax.tree.map(lambda x: x * 0, t), donate_argnums=0)(values)
    items, _ = read(epath.Path(tmp_path), 3, {"ema": template(expected, one_device)})
    jax.tree.map(np.testing.assert_array_equal, items["ema"], expected)


def test_old_steps_are_dropped_and_a_step_is_never_overwritten(saved, one_device):
    before = read_meta(saved, 2)
    with contextlib.closing(Checkpointer(saved, keep=2)) as steps:
        steps.save(3, {"ema": tree(3)}, {})
        steps.save(2, {"ema": tree(9)}, {})
    assert complete_steps(saved) == [2, 3]
    assert read_meta(saved, 2) == before


def data_files(folder):
    return [p for p in folder.rglob("*") if p.is_file() and p.stat().st_size > 10_000]


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize("damage", [flip, truncate, lambda path: path.unlink()])
def test_corrupt_arrays_are_noticed(tmp_path, saved, one_device, damage):
    found = data_files(tmp_path / "steps" / "2")
    assert found
    for path in found:
        damage(path)
    with pytest.raises(CorruptCheckpoint, match="ema"):
        read(saved, 2, {"ema": template(tree(), one_device)})
    read(saved, 1, {"ema": template(tree(), one_device)})


def test_no_flipped_bit_of_a_step_s_metadata_is_believed(saved):
    path = saved / "2" / "meta" / "metadata"
    text, meta = path.read_bytes(), read_meta(saved, 2)
    believed = []
    for position in range(len(text)):
        content = bytearray(text)
        content[position] ^= 1 << position % 8
        path.write_bytes(content)
        with contextlib.suppress(CorruptCheckpoint):
            believed.append(read_meta(saved, 2))
    # Those where the checksum's own name is damaged and nothing else.
    assert len(believed) <= len("checksum")
    assert all(found.items() >= meta.items() for found in believed)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff", b"[]", b"{}", b"[" * 100_000, b'{"step": 2}', None]
)
def test_corrupt_metadata_is_noticed(saved, content):
    path = saved / "2" / "meta" / "metadata"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(CorruptCheckpoint, match="metadata"):
        read_meta(saved, 2)


def test_metadata_or_arrays_of_another_step_are_noticed(saved, one_device):
    files.copy(saved / "1" / "meta" / "metadata", saved / "2" / "meta" / "metadata")
    with pytest.raises(CorruptCheckpoint, match="step 1"):
        read_meta(saved, 2)
    values = json.loads(files.read_text(saved / "2" / "meta" / "metadata"))
    del values["checksum"]
    files.write_text(saved / "2" / "meta" / "metadata", json.dumps({**values, "step": 2}))
    with pytest.raises(CorruptCheckpoint, match="other values"):
        read(saved, 2, {"ema": template(tree(), one_device)})


def test_only_whole_steps_count(saved):
    for name in ("²", "007", "٣", "x", "-1", "8.orbax-checkpoint-tmp"):
        (saved / name).mkdir(parents=True)
    assert complete_steps(saved) == [1, 2]
    assert complete_steps(saved / "none") == []


def test_all_processes_see_the_steps_that_the_first_one_sees(saved, monkeypatch):
    assert same_steps(saved) == complete_steps(saved) == [1, 2]
    # Another process, whose disk shows the folder as it was.
    said = iter([0, 2, 4, 8])  # no error, the number of steps, and the steps
    monkeypatch.setattr(processes, "is_first", lambda: False)
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "everywhere", lambda _: [next(said)])
    monkeypatch.setattr(processes, "agree", lambda _: next(said))
    assert same_steps(saved) == [4, 8]


def test_steps_set_aside_are_moved_not_lost(saved):
    for number in (3, 5):
        with contextlib.closing(Checkpointer(saved)) as steps:
            steps.set_aside(after=1)
            assert complete_steps(saved) == [1]
            steps.save(2, {"ema": tree(number)}, {"more": number})
    assert complete_steps(saved) == [1, 2]
    aside = saved.parent / "set_aside"
    assert files.names(aside) == ["steps-2"]  # the last that had this number
    assert files.read_json(aside / "steps-2" / "meta" / "metadata")["more"] == 3


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


@pytest.mark.parametrize("partly", [False, True])
def test_arrays_of_other_shapes_and_names_are_noticed(saved, one_device, partly):
    values = tree()
    values["half"] = values["half"][:5]
    with pytest.raises(CorruptCheckpoint, match="ema"):
        read(saved, 2, {"ema": template(values, one_device)}, partly=partly)
    with pytest.raises(CorruptCheckpoint, match="nothing"):
        read(saved, 2, {"nothing": template(tree(), one_device)})
    with pytest.raises(CorruptCheckpoint, match="nothing cannot be read"):
        shapes(saved, 2, "nothing")


@pytest.mark.parametrize("size", [100, 10_000])
def test_a_full_disk_is_said_in_a_sentence_and_loses_nothing(saved, one_device, size, caplog):
    caplog.set_level(logging.CRITICAL, "absl")  # what orbax logs would not fit into a file either
    steps = Checkpointer(saved)
    words = r"steps cannot be written \(File too large\)"
    with small_files(size), pytest.raises(files.WriteError, match=words):  # noqa: PT012
        steps.save(3, {"ema": tree(3)}, {})  # one of the two says it
        steps.close()
    save(saved, 3)
    items, _ = read(saved, 3, {"ema": template(tree(), one_device)})
    jax.tree.map(np.testing.assert_array_equal, items["ema"], tree(3))
    read(saved, 2, {"ema": template(tree(), one_device)})


def test_a_folder_that_cannot_be_made_is_said_in_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(files.WriteError, match=r"steps cannot be written \(Not a directory\)"):
        Checkpointer(epath.Path(tmp_path) / "file" / "steps")
