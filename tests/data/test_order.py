import numpy as np
import pytest

from jaxdiff.data.pipeline import shuffled


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


def test_epochs_and_seeds_are_uncorrelated():
    size = 5000
    orders = [
        shuffled(epoch * size + np.arange(size), size, seed) for epoch in (0, 1) for seed in (0, 1)
    ]
    for n, one in enumerate(orders):
        for other in [np.arange(size), *orders[:n]]:
            # Independent permutations: mean 1, standard deviation 1.
            assert (one == other).sum() < 7
            assert abs(np.corrcoef(one, other)[0, 1]) < 5 / size**0.5


def test_neighbours_are_uncorrelated():
    size = 5000
    order = shuffled(np.arange(size), size, 0)
    for distance in (1, 2, 71):
        together = np.corrcoef(order[:-distance], order[distance:])[0, 1]
        assert abs(together) < 5 / size**0.5
