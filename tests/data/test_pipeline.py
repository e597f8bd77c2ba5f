"""The order of examples, and the batches of a run."""

import itertools
import multiprocessing
import os
import signal

import numpy as np
import pytest

from jaxdiff.data.pipeline import batches, shuffled
from jaxdiff.data.source import from_arrays
from jaxdiff.errors import UserError


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 64, 1000, 2**16])
def test_every_epoch_holds_every_example_once(size):
    for epoch in (0, 1, 5):
        order = shuffled(epoch * size + np.arange(size), size, 3)
        np.testing.assert_array_equal(np.sort(order), np.arange(size))


def test_an_example_s_place_depends_on_no_other():
    places = np.random.default_rng(0).integers(0, 2**40, 20)
    whole = shuffled(places, 12345, 7)
    for place, example in zip(places, whole, strict=True):
        assert shuffled(np.array([place]), 12345, 7) == example


def test_epochs_seeds_and_neighbours_are_uncorrelated():
    size = 5000
    orders = [
        shuffled(epoch * size + np.arange(size), size, seed) for epoch in (0, 1) for seed in (0, 1)
    ]
    for n, one in enumerate(orders):
        for other in [np.arange(size), *orders[:n]]:
            # Independent permutations: mean 1, standard deviation 1.
            assert (one == other).sum() < 7
            assert abs(np.corrcoef(one, other)[0, 1]) < 5 / size**0.5
        for distance in (1, 2, 71):
            assert abs(np.corrcoef(one[:-distance], one[distance:])[0, 1]) < 5 / size**0.5


def numbered(size):
    """A source whose examples are their own numbers."""
    return from_arrays(np.arange(size), {"vector": np.arange(size) * 2})


def take(count, size, *args, **kwargs):
    iterator = batches(numbered(size), *args, **kwargs)
    taken = [next(iterator) for _ in range(count)]
    for batch in taken:
        np.testing.assert_array_equal(batch["cond"]["vector"], batch["x"] * 2)
    return [batch["x"] for batch in taken]


def test_batches_hold_every_example_once_an_epoch_and_run_over_its_end():
    rows = np.concatenate(take(10, 7, 5, 0))
    for epoch in range(7):
        np.testing.assert_array_equal(np.sort(rows[7 * epoch : 7 * epoch + 7]), np.arange(7))
    a, b, c = (take(5, 100, 8, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


@pytest.mark.parametrize("first", [0, 1, 33])
def test_a_batch_is_a_function_of_its_number(first):
    whole = take(first + 3, 50, 6, 3)
    np.testing.assert_array_equal(take(3, 50, 6, 3, first_batch=first), whole[first:])


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("first", [0, 3])
def test_processes_share_each_global_batch(first, workers):
    """However many processes there are, and whatever rows their devices take."""
    whole = take(3, 50, 12, 0, first_batch=first)
    kinds = [np.split(np.arange(12), count) for count in (1, 2, 4)]
    kinds.append([np.arange(12)[0::2], np.arange(12)[1::2]])
    for rows in kinds if not workers else kinds[1:2]:
        parts = [take(3, 50, 12, 0, first, workers, mine) for mine in rows]
        got = np.empty_like(whole)
        got[:, np.concatenate(rows)] = np.concatenate(parts, axis=1)
        np.testing.assert_array_equal(got, whole)


def test_workers_read_the_same_batches_and_end_with_the_iterator():
    iterator = batches(numbered(50), 6, 0, workers=2)
    for expected in take(3, 50, 6, 0):
        np.testing.assert_array_equal(next(iterator)["x"], expected)
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    # What Slurm and Kubernetes send to all processes of a job is for the program alone.
    for worker in workers:
        os.kill(worker.pid, signal.SIGTERM)
    for expected in take(6, 50, 6, 0)[3:]:
        np.testing.assert_array_equal(next(iterator)["x"], expected)
    iterator.close()
    assert not multiprocessing.active_children()


class Unreadable:
    """A source with an example that cannot be read."""

    def __len__(self):
        return 50

    def fetch(self, numbers):
        if 7 in numbers:
            raise UserError("train.array_record-00003 is missing or corrupt: restore it.")
        return {"x": numbers, "cond": {}}


def test_what_a_worker_cannot_read_is_one_sentence_and_so_is_its_end():
    with pytest.raises(UserError, match="array_record-00003"):
        list(itertools.islice(batches(Unreadable(), 6, 0, workers=1), 20))
    iterator = batches(numbered(50), 6, 0, workers=1)
    next(iterator)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(UserError, match=r"data.workers.* has ended"):
        list(itertools.islice(iterator, 200))
