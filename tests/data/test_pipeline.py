import numpy as np
import pytest

from jaxdiff.data.pipeline import batches
from jaxdiff.parallel import processes


class Numbers:
    """A source whose examples are their own numbers."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def fetch(self, indices):
        return {"label": np.asarray(indices)}


def take(count, *args, **kwargs):
    iterator = batches(*args, **kwargs)
    return [next(iterator)["label"] for _ in range(count)]


def test_an_epoch_holds_every_example_once_and_epochs_differ():
    rows = np.concatenate(take(20, Numbers(100), 10, 0))
    np.testing.assert_array_equal(np.sort(rows[:100]), np.arange(100))
    np.testing.assert_array_equal(np.sort(rows[100:]), np.arange(100))
    assert not np.array_equal(rows[:100], rows[100:])
    assert not np.array_equal(rows[:100], np.arange(100))


def test_batches_run_on_over_the_end_of_an_epoch():
    rows = np.concatenate(take(10, Numbers(7), 5, 0))
    assert len(rows) == 50
    np.testing.assert_array_equal(np.sort(rows[:7]), np.arange(7))


def test_order_is_a_function_of_the_seed():
    a, b, c = (take(5, Numbers(100), 8, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


@pytest.mark.parametrize("first", [0, 1, 7, 33])
def test_a_batch_is_a_function_of_its_number(first):
    whole = take(first + 3, Numbers(50), 6, 3)
    np.testing.assert_array_equal(take(3, Numbers(50), 6, 3, first_batch=first), whole[first:])


@pytest.mark.parametrize("count", [2, 3, 6])
def test_processes_share_each_global_batch(count, monkeypatch):
    whole = take(4, Numbers(50), 6, 0)
    monkeypatch.setattr(processes, "count", lambda: count)
    parts = []
    for index in range(count):
        monkeypatch.setattr(processes, "index", lambda index=index: index)
        parts.append(take(4, Numbers(50), 6, 0))
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
