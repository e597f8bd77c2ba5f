"""Files, locks, claims, checkpoints and a whole run under gs://, on an emulator."""

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from tensorboardX.proto import event_pb2

import jaxdiff
from jaxdiff import arrays, buckets, claims, files, locks, tables
from jaxdiff.checkpoints import posthoc_ema
from jaxdiff.checkpoints.checkpointer import Checkpointer, CorruptCheckpoint, complete_steps, read
from jaxdiff.checkpoints.run import Run, resolve
from jaxdiff.config import DataConfig, replaced
from jaxdiff.data.prepared import prepare_arrays
from jaxdiff.errors import UserError
from jaxdiff.local_copies import local_copy
from jaxdiff.parallel.mesh import placed, replicated
from jaxdiff.sampling import run_sampling
from jaxdiff.sampling.shards import Place, Shards, for_each_free, shard_paths
from jaxdiff.training import profile, writer
from jaxdiff.training.loop import train
from jaxdiff.training.restart import set_history_aside
from studies.digits import data as digits
from tests import tiny
from tests.checkpoints import synthetic


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
    with files.replacing(folder / "y", new=True) as file:
        file.write(b"mine")
        assert not files.exists(folder / "y")
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
    first = local_copy(folder / "set")
    assert (first.name, files.names(first)) == ("set", ["info.json", "shards"])
    assert files.read_text(first / "shards" / "0") == "zero"
    monkeypatch.setattr(buckets, "download", None)  # not again
    assert local_copy(folder / "set") == first
    monkeypatch.undo()
    monkeypatch.setenv("JAXDIFF_CACHE", str(tmp_path / "cache"))
    files.write_text(folder / "set" / "shards" / "0", "none")
    assert files.read_text(local_copy(folder / "set") / "shards" / "0") == "none"
    assert files.read_text(local_copy(folder / "set" / "info.json")) == "{}"
    with pytest.raises(UserError, match="none"):
        local_copy(folder / "none")
    monkeypatch.setenv("JAXDIFF_CACHE", "gs://bucket/cache")
    with pytest.raises(UserError, match="gs://bucket/cache"):
        local_copy(folder / "set")


def test_a_lock_is_held_by_one_and_taken_over_when_its_holder_is_dead(folder, monkeypatch):
    path = folder / ".lock"
    monkeypatch.setattr(locks, "BEAT", 0.1)
    monkeypatch.setattr(locks, "DEAD", 1.0)
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
    monkeypatch.setattr(locks, "DEAD", 4.0)
    threading.Timer(0.2, files.remove, [path]).start()
    with claims.lock(path, "The folder"):
        pass


def test_who_loses_a_lock_is_ended(folder, monkeypatch, capsys):
    path, ended = folder / ".lock", threading.Event()
    monkeypatch.setattr(locks, "BEAT", 0.1)
    monkeypatch.setattr(locks.os, "kill", lambda *_: ended.set())
    with claims.lock(path, "The folder"):
        files.write_text(path, files.read_text(path))  # its own content is kept
        assert not ended.wait(1)
        files.write_text(path, "theirs")
        assert ended.wait(10)
    assert files.read_text(path) == "theirs"
    assert "The folder was taken over" in capsys.readouterr().err
    files.remove(path)


def test_shards_of_killed_processes_are_taken_over_and_those_of_others_left(folder, monkeypatch):
    monkeypatch.setattr(locks, "BEAT", 0.1)
    monkeypatch.setattr(locks, "DEAD", 1.5)
    shards, taken = Shards(folder, 40, 10), []

    def sample(number):
        assert files.names(folder).count(shards.lock(number).name) == 1
        files.write_text(shards.path(number), "")
        taken.append(number)

    files.write_text(shards.lock(1), '{"pid": 1, "host": "elsewhere", "since": "2020-01-01"}')
    with locks.own_lock(shards.lock(2), "A shard"):
        assert for_each_free(shards, Place(), sample) == [2]
    assert taken == [0, 3, 1]
    assert for_each_free(shards, Place(), sample) == []
    assert taken == [0, 3, 1, 2]
    assert files.names(folder) == ["shards"]


def test_settings_are_claimed_by_one_of_those_who_begin_at_once(folder):
    def claim(seed):
        try:
            claims.claim(folder, {"seed": seed}, "settings.json")
        except UserError as error:
            return str(error)

    with ThreadPoolExecutor(3) as threads:
        said = [text for text in threads.map(claim, range(3)) if text]
    assert len(said) == 2
    assert all("another seed" in text for text in said)
    (seed,) = files.read_json(folder / "settings.json").values()
    for other, left in ((seed + 1, ["settings.json"]), (seed, [])):
        claims.take_back(folder, {"seed": other}, "settings.json", ".shard-*.lock")
        assert files.names(folder) == left


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


# Checkpoints.


def tree(seed):
    random = np.random.RandomState(seed)
    return {
        "kernel": jnp.asarray(random.standard_normal((64, 64)), jnp.float32),
        "half": jnp.asarray(random.standard_normal(7), jnp.bfloat16),
        "step": jnp.int32(seed),
    }


def test_checkpoints_are_saved_kept_read_and_set_aside(folder, one_device):
    place = folder / "checkpoints"
    template = placed(tree(0), jax.tree.map(lambda _: replicated(one_device), tree(0)))
    for begun in (1, 4):  # the second continues
        with contextlib.closing(Checkpointer(place, keep=2)) as steps:
            for step in range(begun, begun + 3):
                steps.save(step, {"params": tree(step)}, {"more": [step]})
    assert complete_steps(place) == [5, 6]
    items, meta = read(place, 6, {"params": template})
    assert (meta["step"], meta["more"]) == (6, [6])
    jax.tree.map(np.testing.assert_array_equal, items["params"], tree(6))
    # One that was killed while it was written, before orbax's last file.
    files.copy(place / "6" / "meta" / "metadata", place / "7" / "meta" / "metadata")
    assert complete_steps(place) == [5, 6]
    with contextlib.closing(Checkpointer(place, keep=2)) as steps:
        steps.set_aside(after=5)
        assert complete_steps(place) == [5]
        steps.save(7, {"params": tree(7)}, {})
    assert complete_steps(place) == [5, 7]
    assert files.names(folder / "set_aside") == ["checkpoints-6"]
    items, _ = read(place, 7, {"params": template})
    jax.tree.map(np.testing.assert_array_equal, items["params"], tree(7))
    for name in files.names(place / "7" / "params" / "d"):
        files.write_bytes(place / "7" / "params" / "d" / name, b"x")
    with pytest.raises(CorruptCheckpoint, match="params"):
        read(place, 7, {"params": template})


def test_a_run_is_held_referenced_and_its_averages_are_rebuilt(folder, one_device):
    with Run(folder).held("--workdir") as run:
        with pytest.raises(UserError, match="@"), Run(folder / "a@b").held("--workdir"):
            pass
        synthetic.make_run(run.folder, every=200)
    with pytest.raises(UserError, match="^gs://tests is not the folder of a run"):
        resolve("gs://tests@5:ema=0.07")
    reference = resolve(f"{folder}@400:ema=0.07")
    assert (reference.run, str(reference)) == (run, f"{folder}@400:ema=0.07")
    assert run.config() == tiny.config(training__power_ema=synthetic.TRACKED)
    plan = posthoc_ema.plan(folder, (0.07,))
    got = posthoc_ema.rebuild(plan, synthetic.template(one_device))
    for _ in range(2):  # the second replaces the first
        posthoc_ema.keep(plan, got)
    assert posthoc_ema.is_kept(plan, 0.07)
    kept = posthoc_ema.average(folder, 0.07, 400, synthetic.template(one_device))
    jax.tree.map(np.testing.assert_array_equal, kept, got[0])
    set_history_aside(run)
    assert files.names(folder) == ["before-restart-1", "config.json"]
    assert str(resolve(f"{folder}/before-restart-1@200")).endswith("before-restart-1@200")


def test_metrics_are_copied_once_a_checkpoint(folder, monkeypatch):
    monkeypatch.setattr(writer, "PART", 300)
    run = Run(folder)
    reports = writer.Writer(run, ("loss",), 0)
    for step in range(1, 17):
        reports.write_metrics(step, {"loss": 1.0 / step})
        if step % 2 == 0:
            reports.flush()
        assert scalars(run.tensorboard) == list(range(1, step // 2 * 2 + 1))
    reports.close()
    assert 1 < len(files.names(run.tensorboard)) < 8
    table = [f"{step},{np.float32(1 / step):.9g}\n" for step in range(1, 17)]
    assert files.read_text(run.metrics) == "".join(["step,loss\n", *table])
    # A program that continues, and is killed before its first checkpoint, leaves all as it was.
    again = writer.Writer(run, ("loss",), 8)
    again.write_metrics(9, {"loss": 2.0})
    assert files.read_text(run.metrics).count("\n") == 17
    again.close()
    assert files.read_text(run.metrics) == "".join(["step,loss\n", *table[:8], "9,2\n"])


def test_a_trace_is_copied_up(folder, capsys, monkeypatch):
    """One of a few bytes: the emulator takes no large objects, and what else runs here is in it."""

    def start(local, profiler_options):
        files.write_bytes(local / "plugins/profile/now/vm.xplane.pb", b"trace")

    monkeypatch.setattr(jax.profiler, "start_trace", start)
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: None)
    run = Run(folder)
    trace = profile.Profile((0, 1), run, 0, 5)
    trace.at(0, ())
    trace.at(1, jnp.ones(3) + 1)
    (name,) = files.names(run.tensorboard / "plugins" / "profile")
    place = run.tensorboard / "plugins" / "profile" / name
    assert f"steps 1 to 1: {place}" in capsys.readouterr().out
    assert files.read_bytes(place / "vm.xplane.pb") == b"trace"


def scalars(folder):
    """Steps of all scalars in a folder's event files."""
    found = []
    for name in files.names(folder):
        content = files.read_bytes(folder / name)
        while content:  # length (8 bytes), its checksum (4), an Event, its checksum (4)
            size = int.from_bytes(content[:8], "little")
            event = event_pb2.Event.FromString(content[12 : 12 + size])
            found += [event.step for _ in event.summary.value]
            content = content[16 + size :]
    return found


# A whole run.


def test_a_dataset_a_run_and_its_samples_under_gs(folder, tmp_path, monkeypatch, alone):
    monkeypatch.setenv("JAXDIFF_CACHE", str(tmp_path / "cache"))
    prepare_arrays(folder / "data", digits.splits())
    config = tiny.config(
        data=DataConfig(name=str(folder / "data"), image_size=8, channels=1),
        training__num_steps=10,
        training__snapshot_every=10,
        training__preview_every=20,
    )
    run = Run(folder / "run")
    train(config, str(run.folder))
    # The same command continues it, and another one is refused.
    longer = replaced(config, {"training.num_steps": 20})
    train(longer, str(run.folder))
    with pytest.raises(UserError, match="seed"):
        train(replaced(longer, {"seed": 1}), str(run.folder))
    assert complete_steps(run.checkpoints) == complete_steps(run.snapshots) == [10, 20]
    assert files.names(run.previews) == ["20.png"]
    assert {*scalars(run.tensorboard)} == {5, 10, 15, 20}
    assert files.names(run.folder) == [
        *("checkpoints", "config.json", "data.json", "metrics.csv"),
        *("previews", "snapshots", "tensorboard"),
    ]

    model = jaxdiff.load(f"{run.folder}@10")
    job = model.job(8, batch_size=4, cond={"label": 3})
    expected = job.samples().images
    # The second shard is there already, as of a job that was killed.
    out, settings = folder / "samples", {**job.settings, "shard": 4}
    claims.claim(out, settings, "settings.json")
    path = shard_paths(out, 8, 4)[1]
    arrays.save_npz(path, {"images": 255 - expected[4:], "non_finite": np.arange(0)})
    for _ in range(2):
        run_sampling.run(job, out)
        name, manifest = "samples_8x8x8x1.npz", files.read_json(out / "manifest.json")
        assert files.names(out) == ["grid.png", "manifest.json", name, "settings.json"]
        images = arrays.load_npz(out / name)["arr_0"]
        np.testing.assert_array_equal(images[:4], expected[:4])
        np.testing.assert_array_equal(images[4:], 255 - expected[4:])
    assert manifest["model"] == f"{run.folder}@10"
