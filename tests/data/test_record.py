"""A run's record of its data, and what it is compared by."""

import numpy as np
import pytest

from jaxdiff.config import Label
from jaxdiff.data import record
from jaxdiff.data.prepared import prepare_arrays
from jaxdiff.data.source import from_arrays
from jaxdiff.errors import UserError
from tests.data.preparing import noise, read

IMAGES, LABELS, NAMES = noise(6, 8, 8, 1), np.arange(6) % 3, ("a", "b", "c")
VECTORS = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)


def prepared(folder, images=IMAGES, labels=LABELS, names=NAMES, vectors=VECTORS):
    cond = {"label": labels, "vector": vectors}
    prepare_arrays(folder / "mine", {"train": {"x": images, "cond": cond}}, class_names=names)
    return read(folder / "mine", "train", (Label(len(names)),))[0]


def test_the_same_data_have_the_same_record(tmp_path):
    one, two = (prepared(tmp_path / n) for n in ("one", "two"))
    assert record.describe(one) == record.describe(two) == record.describe(one.in_memory())
    assert record.describe(one)["examples"] == 6
    assert record.describe(one)["classes"] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": np.concatenate([IMAGES[:5], 255 - IMAGES[5:]])}, "checksum"),
        ({"labels": LABELS[::-1]}, "checksum"),
        ({"vectors": -VECTORS}, "checksum"),  # no condition of the model
        ({"images": IMAGES[:5], "labels": LABELS[:5], "vectors": VECTORS[:5]}, r"\(6 in the run"),
        ({"names": ("a", "c", "b")}, r"class 1 \(b in the run's, here c\)"),
    ],
)
def test_a_run_is_not_continued_on_other_data(tmp_path, changes, words):
    run = tmp_path / "run"
    run.mkdir()
    source = prepared(tmp_path / "one")
    assert record.read(run) is None
    record.check(run, record.describe(source), "data/x")
    record.write(run, record.describe(source))
    assert record.read(run) == record.describe(source)
    record.check(run, record.describe(source), "data/x")
    other = record.describe(prepared(tmp_path / "two", **changes))
    with pytest.raises(UserError, match=f"data/x.*{words}"):
        record.check(run, other, "data/x")


def test_arrays_and_large_sets_have_a_checksum_too(monkeypatch):
    monkeypatch.setattr(record, "ALL", 49)
    monkeypatch.setattr(record, "SOME", 10)
    points = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    checksum = record.checksum(from_arrays(points, {"label": np.zeros(50, np.int32)}))
    for number, counts in ((5, True), (7, False)):  # every 5th is read
        other = points.copy()
        other[number] += 1
        same = record.checksum(from_arrays(other, {"label": np.zeros(50, np.int32)})) == checksum
        assert same != counts
    assert record.checksum(from_arrays(points, {"label": np.ones(50, np.int32)})) != checksum
    assert record.checksum(from_arrays(points, origin="elsewhere")) != checksum


def test_classes_without_images_are_known_from_the_data(tmp_path):
    labels = np.array([1, 1, 3, 3, 1, 3])
    source = prepared(tmp_path, labels=labels, names=(*NAMES, "d"))
    assert source.empty == source.in_memory().empty == (0, 2)
    assert from_arrays(IMAGES, {"label": labels}, (*NAMES, "d")).empty == (0, 2)


def test_class_names_are_compared_one_by_one():
    assert record.first_difference(["a", "b"], ["a", "b"]) is None
    assert record.first_difference(["a", "b"], ["a", "c"]) == (1, "b", "c")
    assert record.first_difference(["a"], ["a", "c"]) == (1, "none", "c")
    assert record.are_named(["a", "b"])
    assert not record.are_named(["0", "1"])
    assert not record.are_named([])
