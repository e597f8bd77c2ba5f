import dataclasses

import numpy as np
import pytest
from jaxdiff.data.digits import load, split_indices
from jaxdiff.evaluation.digits import read_samples, score

from jaxdiff.data.source import open_source
from jaxdiff.errors import UserError
from jaxdiff.evaluation import scores
from jaxdiff.evaluation.scores import mean_pairwise_distance


@pytest.fixture(scope="module")
def held_out():
    images, labels = load()
    chosen = split_indices(labels)["test"]
    return images[chosen], labels[chosen]


def test_real_digits_score_like_real_digits(held_out):
    result = score(*held_out)
    assert result.total_agreement > 0.97
    np.testing.assert_allclose(result.diversity, 1, atol=0.15)
    np.testing.assert_array_equal(result.count, np.bincount(held_out[1]))


def test_wrong_labels_are_counted(held_out):
    images, labels = held_out
    assert score(images, (labels + 1) % 10).total_agreement < 0.03


def test_collapse_is_seen(held_out):
    images, labels = held_out
    collapsed = images.copy()
    collapsed[labels == 4] = images[labels == 4][0]
    result = score(collapsed, labels)
    np.testing.assert_allclose(result.diversity[4], 0, atol=1e-6)
    assert np.delete(result.diversity, 4).min() > 0.8


def test_the_distance_is_between_different_rows():
    assert mean_pairwise_distance(np.array([[0.0, 0], [3, 4], [3, 4]])) == pytest.approx(10 / 3)


def test_files_that_hold_no_labelled_digits_are_refused(tmp_path):
    with pytest.raises(UserError, match="holds 0 files"):
        read_samples(tmp_path)
    np.savez(tmp_path / "samples_2x8x8x3.npz", arr_0=np.zeros((2, 8, 8, 3)), arr_1=np.zeros(2))
    with pytest.raises(UserError, match=r"\(8, 8, 3\)"):
        read_samples(tmp_path)
    np.savez(tmp_path / "unlabelled.npz", arr_0=np.zeros((2, 8, 8, 1)))
    with pytest.raises(UserError, match="holds arr_0: samples with labels"):
        read_samples(tmp_path / "unlabelled.npz")


def test_the_nearest_neighbour_is_of_the_same_class(held_out):
    images, labels = held_out
    np.testing.assert_allclose(score(images, labels).neighbour, 1, rtol=1e-6)
    assert score(images, (labels + 1) % 10).neighbour > 1.3
    real_images, real_labels = load()
    train = split_indices(real_labels)["train"]
    assert score(real_images[train], real_labels[train]).neighbour < 1e-6


@pytest.mark.parametrize(("size", "tolerance"), [(900, 0.05), (20_000, 1e-4)])
def test_any_labelled_images_have_a_reader_of_their_own(held_out, monkeypatch, size, tolerance):
    """Of some of them, diversity is known roughly: here by 90 of 150 of a class."""
    monkeypatch.setattr(scores, "SIZE", size)
    fitted = {"image_size": 8, "channels": 1, "num_classes": 10}
    train, test = (
        open_source("digits", split, **fitted).in_memory() for split in ("train", "test")
    )
    by_class = np.argsort(train.records["label"], kind="stable")  # as of a folder of class folders
    records = {name: array[by_class] for name, array in train.records.items()}
    real = scores.real(dataclasses.replace(train, records=records), test)
    images, labels = held_out
    result = real.score(scores.rows_of(images), labels)
    assert result.total_agreement > 0.95
    np.testing.assert_allclose(result.neighbour, 1, rtol=1e-6)
    np.testing.assert_allclose(result.diversity, score(images, labels).diversity, rtol=tolerance)
    assert real.score(scores.rows_of(images), (labels + 1) % 10).total_agreement < 0.03
