import numpy as np
import pytest

from jaxdiff.data import statistics
from jaxdiff.data.source import from_arrays
from jaxdiff.data.statistics import standard_deviation
from jaxdiff.errors import UserError


def test_it_is_exact_and_the_same_in_small_chunks(monkeypatch):
    images = np.random.RandomState(0).randint(90, 110, (50, 8, 8, 3)).astype(np.uint8)
    exact = (images.astype(np.float64) / 127.5).std()
    np.testing.assert_allclose(standard_deviation(from_arrays(images)), exact, rtol=1e-14)
    monkeypatch.setattr(statistics, "VALUES", 7 * 8 * 8 * 3)
    np.testing.assert_allclose(standard_deviation(from_arrays(images)), exact, rtol=1e-14)


def test_of_many_images_some_are_looked_at_all_over_the_split(monkeypatch):
    images = np.arange(250, dtype=np.uint8).reshape(250, 1, 1, 1)
    monkeypatch.setattr(statistics, "MOST", 50)
    expected = (np.arange(0, 250, 5) / 127.5).std()
    np.testing.assert_allclose(standard_deviation(from_arrays(images)), expected, rtol=1e-14)


def test_data_of_one_value_have_none():
    with pytest.raises(UserError, match="data_std"):
        standard_deviation(from_arrays(np.full((4, 2, 2, 1), 7, np.uint8)))
