"""Who samples which shard, how far all are, and over how many devices parameters are split."""

import itertools
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
from etils import epath

from jaxdiff import files, locks
from jaxdiff.errors import UserError
from jaxdiff.sampling import run_sampling
from jaxdiff.sampling.command import part_of
from jaxdiff.sampling.job import default_batch_size, least_fsdp
from jaxdiff.sampling.shards import Place, Progress, Shards, for_each_free


@pytest.fixture
def shards(tmp_path):
    """The 7 shards of 64 samples."""
    return Shards(epath.Path(tmp_path), 64, 10)


def test_shards_hold_each_sample_once(shards):
    numbers = [shards.numbers(number) for number in range(shards.total)]
    np.testing.assert_array_equal(np.concatenate(numbers), np.arange(64))
    assert shards.path(6).name == "00006-of-00007.npz"


@pytest.mark.parametrize(("total", "count"), [(1, 1), (7, 3), (3, 7), (98, 16)])
def test_each_place_begins_elsewhere_and_fixed_parts_are_apart(total, count):
    places = [Place(index, count) for index in range(count)]
    assert all(sorted(place.order(total)) == list(range(total)) for place in places)
    firsts = [place.order(total)[0] for place in places]
    assert firsts == [index * total // count for index in range(count)]
    fixed = [Place(index, count, is_fixed=True).order(total) for index in range(count)]
    assert sorted(itertools.chain(*fixed)) == list(range(total))
    assert max(map(len, fixed)) <= -(-total // count)


def test_parts_are_read_or_refused_in_a_sentence():
    assert [part_of(text) for text in (None, "0/1", "3/16")] == [None, (0, 1), (3, 16)]
    for text in (
        "16/16",
        "1",
        "-1/4",
        "1/0",
        "0/0",
        "a/b",
        "1/2/3",
        "1.5/2",
        "",
        "/",
        "1/99999999",
    ):
        with pytest.raises(UserError, match="--shard is"):
            part_of(text)


def test_free_shards_are_taken_once_each_whoever_comes(shards):
    files.write_text(shards.path(2), "there")
    files.write_text(shards.lock(3), "{}")  # of a process that was killed
    taken = []

    def sample(number):
        taken.append(number)
        time.sleep(0.01)
        files.write_text(shards.path(number), "there")

    with ThreadPoolExecutor(4) as threads:
        ends = threads.map(lambda n: for_each_free(shards, Place(n, 4), sample), range(4))
        held = [number for end in ends for number in end]
    assert sorted(taken) == [0, 1, 3, 4, 5, 6]
    assert {*held} <= {*taken}, "ended before others did"
    assert files.names(shards.out) == ["shards"]


def test_shards_that_others_hold_are_left_to_them(shards, capsys):
    def sample(number):
        files.write_text(shards.path(number), "there")

    with locks.own_lock(shards.lock(5), "it"):
        assert for_each_free(shards, Place(1, 2), sample) == [5]
        run_sampling._say_missing(shards, [5], [5])
        assert "1 of 7 shards: 5 by process" in capsys.readouterr().out
        assert shards.there() == [0, 1, 2, 3, 4, 6]
    assert for_each_free(shards, Place(1, 2), sample) == []


def test_a_shard_of_a_finished_job_is_not_sampled_again(shards):
    files.write_text(shards.out / "manifest.json", "{}")
    assert for_each_free(shards, Place(), pytest.fail) == []


def test_what_fails_frees_the_shard(shards):
    with pytest.raises(ZeroDivisionError):
        for_each_free(shards, Place(), lambda number: 1 // 0)
    assert files.names(shards.out) == []


def test_storage_without_locks_is_divided(tmp_path, monkeypatch, capsys):
    path = epath.Path(tmp_path) / "settings.json"
    files.write_text(path, "{}")
    assert locks.has_locks(path)
    assert locks.has_locks(epath.Path("gs://bucket/settings.json"))
    assert not locks.has_locks(epath.Path("s3://bucket/settings.json"))

    def refuse(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    assert not locks.has_locks(path)
    assert run_sampling._divided(path.parent, Place(1, 4)) == Place(1, 4, is_fixed=True)
    assert capsys.readouterr().out.count("\n") == 1


def test_files_for_a_bucket_take_room_on_this_machine(tmp_path):
    free, folder = files.room(epath.Path("gs://bucket/x"))
    assert (str(folder), free > 0) == (tempfile.gettempdir(), True)
    assert files.room(epath.Path(tmp_path) / "x")[1] == epath.Path(tmp_path)


def test_progress_counts_the_shards_of_all(shards, monkeypatch):
    monkeypatch.setattr("jaxdiff.sampling.shards.LOOK", 0)
    files.write_text(shards.path(6), "4 samples")
    with Progress(shards, quiet=False) as bar:
        assert (bar._bar.total, bar._bar.n, bar._bar.initial) == (64, 4, 4)
        bar.update(5)
        assert bar._bar.n == 9
        files.write_text(shards.path(0), "of another process")
        bar.update(5)
        assert bar._bar.n == 24
        files.write_text(shards.path(1), "its own")
        bar.end_shard()
        assert bar._bar.n == 24


MATRIX = jax.ShapeDtypeStruct((1024, 1000), np.float32)  # 4,096,000 bytes
BIAS = jax.ShapeDtypeStruct((1000,), np.float32)  # too small to be split
SHAPES = {"main": [MATRIX, BIAS], "guide": [MATRIX]}


@pytest.mark.parametrize("fsdp", [1, 2, 4, 8])
def test_parameters_are_split_over_the_fewest_devices_where_they_fit(fsdp):
    size = 2 * 4_096_000 // fsdp + 4000
    assert least_fsdp(SHAPES, 8, size / 0.75) == fsdp
    if fsdp < 8:
        assert least_fsdp(SHAPES, 8, (size - 1) / 0.75) == 2 * fsdp
        return
    with pytest.raises(UserError, match=r"take 7\.8 MiB, and 1\.0 MiB on each of 8 devices"):
        least_fsdp(SHAPES, 8, (size - 1) / 0.75)


def test_the_batch_grows_with_the_devices():
    assert [default_batch_size(n) for n in (1, 4, 8, 9, 64)] == [128, 128, 128, 144, 1024]
