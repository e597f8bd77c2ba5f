"""A run's record of its data, and what it is compared by."""

import dataclasses
import types

import numpy as np
import pytest

from jaxdiff.data import record
from jaxdiff.data.source import open_source
from jaxdiff.errors import UserError
from jaxdiff.sampling.guidance_config import Method, _check_class_names
from jaxdiff.training import workdir
from tests import tiny
from tests.data.test_prepare import noise, prepare_here, save

SHAPE = {"image_size": 8, "channels": 1}


def prepared(path, images, labels, names):
    """A dataset of npz files, which replaces the one that was there."""
    path.mkdir(exist_ok=True)
    file = save(path / "train.npz", images=images, labels=labels, class_names=names)
    out = path / f"out{len(list(path.iterdir()))}"
    prepare_here("npz", file, out=out)
    return open_source(str(out), "train", num_classes=len(names), **SHAPE)


IMAGES, LABELS, NAMES = noise(6, 8, 8, 1), np.arange(6) % 3, ("a", "b", "c")
OTHER = np.concatenate([IMAGES[:5], 255 - IMAGES[5:]])


def test_the_same_data_have_the_same_record(tmp_path):
    one, two = (prepared(tmp_path / n, IMAGES, LABELS, NAMES) for n in ("one", "two"))
    assert record.describe(one) == record.describe(two) == record.describe(one.in_memory())
    assert record.describe(one)["examples"] == 6
    assert record.describe(one)["classes"] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("images", "labels", "names", "words"),
    [
        (OTHER, LABELS, NAMES, "checksum"),
        (IMAGES, LABELS[::-1].copy(), NAMES, "checksum"),
        (IMAGES[:5], LABELS[:5], NAMES, r"number of examples \(6 in the run"),
        (IMAGES, LABELS, ("a", "c", "b"), r"class 1 \(b in the run's, here c\)"),
    ],
)
def test_a_run_is_not_continued_on_other_data(tmp_path, images, labels, names, words):
    run = tmp_path / "run"
    run.mkdir()
    config = tiny.config(data__name="data/x")
    source = prepared(tmp_path / "one", IMAGES, LABELS, NAMES)
    record.write(run, workdir.data_record(config, run, source))
    assert workdir.data_record(config, run, source.in_memory()) == record.read(run)
    other = prepared(tmp_path / "two", images, labels, names)
    with pytest.raises(UserError, match=f"data/x.*{words}"):
        workdir.data_record(config, run, other)


def test_points_and_large_sets_have_a_checksum_too(tmp_path, monkeypatch):
    points = [open_source(n, "train", num_classes=0, **SHAPE) for n in ("toy_a", "toy_ab")]
    assert record.checksum(points[0]) != record.checksum(points[1])
    source = prepared(tmp_path, noise(50, 8, 8), np.arange(50) % 3, NAMES)
    read = []

    class Noting:
        def __getitems__(self, numbers):
            read.extend(numbers)
            return source.stored.__getitems__(numbers)

    monkeypatch.setattr(record, "ALL", 49)
    monkeypatch.setattr(record, "SOME", 10)
    record.checksum(dataclasses.replace(source, stored=Noting()))
    assert read == list(range(0, 50, 5))


def test_a_batch_that_is_larger_than_the_data_is_warned_of(tmp_path, capsys):
    source = prepared(tmp_path, IMAGES, LABELS, NAMES)
    capsys.readouterr()
    for batch, warned in ((6, 0), (7, 1)):
        workdir.data_record(tiny.config(training__batch_size=batch), tmp_path / "run", source)
        said = capsys.readouterr().err
        assert said.count("\n") == said.count("training.batch_size is 7") == warned


def model(path, classes, empty=(), num_classes=None):
    """As far as a Model is asked for its classes; `classes` None: of a run without a record."""
    path.mkdir()
    if classes is not None:
        known = {"examples": 9, "sha256": "", "classes": classes, "empty": empty}
        record.write(path, known)
    run = types.SimpleNamespace(folder=path)
    data = types.SimpleNamespace(num_classes=num_classes or len(classes or ()))
    return types.SimpleNamespace(
        reference=types.SimpleNamespace(run=run), config=types.SimpleNamespace(data=data)
    )


def test_networks_of_other_classes_do_not_guide(tmp_path):
    main = model(tmp_path / "main", ["cat", "dog", "owl"])
    for name, classes in (
        ("same", ["cat", "dog", "owl"]),
        ("none", []),
        ("unknown", None),
        ("1", ["0", "1", "2"]),
    ):
        _check_class_names("guide", model(tmp_path / name, classes), main)
    with pytest.raises(UserError, match="class 1 is owl, and the model's is dog"):
        _check_class_names("guide", model(tmp_path / "other", ["cat", "owl", "dog"]), main)


def test_classes_without_images_are_not_sampled_by_default(tmp_path):
    nothing = {"guides": (), "references": (), "strength": None, "cads": None}
    alone = Method(classifier=None, **nothing)
    assert alone.classes(model(tmp_path / "a", ["0", "1", "2"], [0])) == (1, 2)
    assert alone.classes(model(tmp_path / "b", None, num_classes=3)) == (0, 1, 2)
    with_classifier = Method(classifier=model(tmp_path / "c", ["0", "1", "2"], [1]), **nothing)
    assert with_classifier.classes(model(tmp_path / "d", [])) == (0, 2)


def test_classes_without_images_are_known_from_the_data(tmp_path):
    source = prepared(tmp_path, IMAGES, np.array([1, 1, 3, 3, 1, 3]), (*NAMES, "d"))
    assert source.empty == source.in_memory().empty == (0, 2)
    assert dataclasses.replace(source, empty=()).in_memory().empty == (0, 2)
