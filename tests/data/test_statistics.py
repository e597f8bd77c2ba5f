import numpy as np
import pytest

from jaxdiff.data import statistics
from jaxdiff.data.images import to_float
from jaxdiff.data.source import Source, open_source
from jaxdiff.data.statistics import standard_deviation
from jaxdiff.errors import UserError


def source(images):
    records = {"image": images, "label": np.zeros(len(images), np.int32)}
    return Source(records, len(images), images.shape[1], images.shape[3], ())


def test_of_the_digits_it_is_numpy_s_held_in_memory_or_not():
    digits = open_source("digits", "train", image_size=8, channels=1, num_classes=10)
    expected = to_float(digits.all()["image"]).astype(np.float64).std()
    assert standard_deviation(digits) == standard_deviation(digits.in_memory())
    np.testing.assert_allclose(standard_deviation(digits), expected, rtol=1e-7)


def test_it_is_exact_and_the_same_in_small_chunks(monkeypatch):
    images = np.random.RandomState(0).randint(90, 110, (50, 8, 8, 3)).astype(np.uint8)
    exact = (images.astype(np.float64) / 127.5).std()
    np.testing.assert_allclose(standard_deviation(source(images)), exact, rtol=1e-14)
    monkeypatch.setattr(statistics, "VALUES", 7 * 8 * 8 * 3)
    np.testing.assert_allclose(standard_deviation(source(images)), exact, rtol=1e-14)


def test_of_many_images_some_are_looked_at_all_over_the_split(monkeypatch):
    images = np.arange(250, dtype=np.uint8).reshape(250, 1, 1, 1)
    monkeypatch.setattr(statistics, "MOST", 50)
    seen = []

    class Noting(Source):
        def fetch(self, indices):
            seen.extend(indices)
            return super().fetch(indices)

    standard_deviation(Noting(**vars(source(images))))
    assert sorted(set(seen)) == list(range(0, 250, 5))


def test_data_that_are_all_alike_have_none():
    with pytest.raises(UserError, match="alike"):
        standard_deviation(source(np.full((4, 2, 2, 1), 7, np.uint8)))
