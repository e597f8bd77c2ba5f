import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from jaxdiff.data.source import open_source

DIGITS = {"image_size": 8, "channels": 1, "num_classes": 10}


@pytest.fixture(scope="module")
def splits():
    return {split: open_source("digits", split, **DIGITS) for split in ("train", "test")}


def test_every_scan_is_in_one_split_once(splits):
    got = np.concatenate([splits[s].all()["image"].reshape(-1, 64) for s in ("train", "test")])
    expected = np.round(load_digits().data * 15.9375).astype(np.uint8)
    order = lambda rows: rows[np.lexsort(rows.T)]  # noqa: E731
    np.testing.assert_array_equal(order(got), order(expected))


def test_sizes_and_strata(splits):
    assert (len(splits["train"]), len(splits["test"])) == (1500, 297)
    whole = np.bincount(load_digits().target) / 1797
    for source in splits.values():
        counts = np.bincount(source.all()["label"])
        np.testing.assert_allclose(counts, whole * len(source), atol=1)


def test_values_are_scaled_linearly(splits):
    values = np.unique(splits["train"].all()["image"])
    np.testing.assert_array_equal(values, np.round(np.arange(17) * 255 / 16))


def test_labels_belong_to_their_images(splits):
    digits = load_digits()
    known = {
        np.round(row * 15.9375).astype(np.uint8).tobytes(): label
        for row, label in zip(digits.data, digits.target, strict=True)
    }
    rows = splits["test"].all()
    assert [known[image.tobytes()] for image in rows["image"]] == rows["label"].tolist()


def test_the_same_split_every_time(splits):
    # The first images of the test split, by their place in scikit-learn's set.
    from jaxdiff.data.digits import split_indices

    once, twice = (split_indices(load_digits().target) for _ in range(2))
    np.testing.assert_array_equal(once["train"], twice["train"])
    assert not set(once["train"]) & set(once["test"])


def test_memory_and_file_give_the_same(splits):
    source = splits["train"]
    held = source.in_memory()
    assert isinstance(held.records, dict)
    for name in ("image", "label"):
        np.testing.assert_array_equal(
            held.fetch([5, 3, 1499])[name], source.fetch([5, 3, 1499])[name]
        )


def test_no_tensorflow(splits):
    assert "tensorflow" not in sys.modules
