"""Opening datasets, TFDS's and prepared ones: what they give, and how what cannot be is refused."""

import io
import json
import os
import shutil
import sys
import types

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image as Picture

from jaxdiff.config import DataConfig, Image, Label, Vector, import_modules, settings
from jaxdiff.data import prepared
from jaxdiff.data import source as source_lib
from jaxdiff.data.prepared import prepare_arrays
from jaxdiff.data.source import from_arrays, open_split
from jaxdiff.errors import UserError
from tests.data.preparing import noise


def open_source(name, split="train", conditions=(), size=8, channels=1, **data):
    data = DataConfig(name=str(name), image_size=size, channels=channels, **data)
    return open_split(data, split, conditions)


class Photographs(tfds.core.GeneratorBasedBuilder):
    """PNG images of many sizes with labels and scores, as a user's own TFDS dataset has them."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(names=["dark", "light"]),
            "score": tfds.features.Scalar(np.float64),
            "map": tfds.features.Image(shape=(None, None, 1)),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(False), "test": self._generate_examples(True)}

    def _generate_examples(self, is_unlabelled):
        for number in range(10):
            value = 20 + 200 * (number % 2)
            colour = np.full((16 + number, 40, 3), value, np.uint8)
            yield (
                number,
                {
                    "image": self._png(colour),
                    "label": -1 if is_unlabelled else number % 2,
                    "score": value / 2,
                    "map": self._png(255 - colour[..., 0]),
                },
            )

    def _png(self, array):
        file = io.BytesIO()
        Picture.fromarray(array).save(file, "png")
        file.seek(0)
        return file


@pytest.fixture(scope="module")
def photographs():
    builder = Photographs(file_format="array_record")
    builder.download_and_prepare()
    return builder


def test_any_array_record_dataset_is_read(photographs):
    conditions = (Label(2), Vector(1, "score"), Image(1, "map"))
    for name in (photographs.info.name, photographs.data_path):
        source = open_source(name, "train", conditions, channels=3)
        assert source.class_names == ("dark", "light")
        rows = source.all()
        assert rows["x"].shape == (10, 8, 8, 3)
        assert rows["x"].dtype == np.uint8
        shades = 20 + 200 * rows["cond"]["label"]
        np.testing.assert_array_equal(rows["x"][:, 4, 4, 0], shades)
        np.testing.assert_array_equal(rows["cond"]["score"][:, 0], shades / 2)
        # Cropped with the image.
        assert rows["cond"]["map"].shape == (10, 8, 8, 1)
        np.testing.assert_allclose(
            rows["cond"]["map"][:, 4, 4, 0], (255 - shades) / 127.5 - 1, atol=1e-6
        )
    assert open_source("photographs", channels=3).class_names == ()
    with pytest.raises(UserError, match="label -1"):
        open_source("photographs", "test", conditions, channels=3).all()


def test_large_sets_stay_on_disk(photographs, monkeypatch):
    source = open_source("photographs", "train", (Vector(1, "score"),))
    monkeypatch.setattr(source_lib, "IN_MEMORY_BYTES", 10 * (8 * 8 + 4))
    assert source.in_memory() is source
    monkeypatch.setattr(source_lib, "IN_MEMORY_BYTES", 10 * (8 * 8 + 4) + 1)
    assert source.in_memory() is not source


def test_smaller_images_can_be_padded(photographs):
    rows = open_source("photographs", size=48, channels=3, fit="pad").all()
    heights = sorted((rows["x"][:, :, 4:44] > 0).all((2, 3)).sum(1))
    assert heights == list(range(16, 26))
    assert not rows["x"][:, :, :4].any()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A dataset in three files, as jaxdiff prepares them."""
    folder = tmp_path_factory.mktemp("whole") / "mine"
    cond = {"label": np.arange(10) % 2, "vector": np.ones((10, 4)), "image": noise(10, 4, 4, 3)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepared, "SHARD_SIZE", 4)
        prepare_arrays(folder, {"train": {"x": noise(10, 8, 8, 1), "cond": cond}}, ("a", "b"))
    return folder


def test_the_image_itself_at_a_lower_resolution_is_a_condition(whole):
    rows = open_source(whole, "train", (Image(1), Label(2)), low_res_size=4).all()
    squares = rows["x"].reshape(10, 4, 2, 4, 2, 1).mean((2, 4))
    np.testing.assert_allclose(rows["cond"]["image"], squares / 127.5 - 1, atol=1e-6)
    for conditions in ((), (Image(3),), (Image(1, "map"),)):
        with pytest.raises(UserError, match="model.conditions"):
            open_source(whole, "train", conditions, low_res_size=4)


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        (Label(3), r"Label\(classes=3.*2 classes"),
        (Label(2, "vector"), "Label.*vector"),
        (Vector(5), r"Vector\(size=5.*\(4,\)"),
        (Vector(4, "other"), "feature other"),
        (Image(1), r"Image\(channels=1.*4, 4, 3"),
    ],
)
def test_conditions_that_the_dataset_does_not_hold_are_refused(whole, condition, words):
    with pytest.raises(UserError, match=words) as refusal:
        open_source(whole, "train", (condition,))
    assert "\n" not in str(refusal.value)


def test_images_of_another_size_than_a_cropped_one_are_refused(whole):
    open_source(whole, "train", (Image(3),))
    with pytest.raises(UserError, match="condition_image"):
        open_source(whole, "train", (Image(3),), size=16)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("digitz", "digitz is neither"),
        ("mnist", "tfds build mnist --file_format=array_record"),
        ("mnist:9.9.9", "mnist:9.9.9"),
        ("x" * 5000, "x"),
        ("gs:/bucket/data", "data.name"),
        ("²", "data.name"),
    ],
)
def test_datasets_that_cannot_be_used_are_refused(name, words):
    with pytest.raises(UserError, match=words):
        open_source(name)


def test_a_split_that_is_not_there_is_refused(whole):
    with pytest.raises(UserError, match="no split validation: it has train"):
        open_source(whole, "validation")


def test_a_set_in_another_file_format_is_refused(whole, monkeypatch):
    def refuse(*_, **__):
        raise NotImplementedError

    monkeypatch.setattr(tfds.core.DatasetBuilder, "as_data_source", refuse)
    with pytest.raises(UserError, match="tfds build"):
        open_source(whole)


def flip(path):
    data = bytearray(path.read_bytes())
    data[70] ^= 4  # in the header of its first chunk
    path.write_bytes(data)


def name_class(path, name):
    features = json.loads(path.read_text())
    path.write_text(json.dumps({**features, "pythonClassName": name}))


SECOND = "mine-train.array_record-00001-of-00003"


@pytest.mark.parametrize(
    ("file", "change"),
    [
        (SECOND, flip),
        (SECOND, lambda path: path.unlink()),
        (SECOND, lambda path: path.write_bytes(path.read_bytes()[:70_000])),
        ("features.json", lambda path: path.unlink()),
        ("dataset_info.json", lambda path: path.write_bytes(b"{")),
        ("features.json", lambda path: path.write_bytes(b"[]")),
        ("features.json", lambda path: name_class(path, "subprocess.Popen")),
        ("request.json", lambda path: path.write_bytes(b"\xff{}")),
        ("summary.json", lambda path: path.write_bytes(b"{}")),
    ],
)
def test_a_corrupt_dataset_is_named(tmp_path, whole, file, change):
    folder = tmp_path / "data"
    shutil.copytree(whole, folder)
    change(folder / file)
    words = file if file == SECOND else str(folder)
    with pytest.raises(UserError, match=words) as refusal:
        open_source(folder, "train", (Label(2),)).all()
    assert "\n" not in str(refusal.value)


def test_a_function_prepares_the_data_at_first_use(tmp_path, monkeypatch):
    def make():
        cond = {"label": np.arange(4) % 2}
        return prepare_arrays(tmp_path / "made", {"train": {"x": noise(4, 8, 8, 1), "cond": cond}})

    mine = types.SimpleNamespace(make=make, os=os)
    monkeypatch.setitem(sys.modules, "of_mine", mine)
    data = DataConfig(prepare="of_mine:make", image_size=8, channels=1)
    with pytest.raises(UserError, match="of_mine"):  # there, but nobody asked for it
        open_split(data, "train", (Label(2),))
    import_modules(["of_mine"])
    for _ in range(2):
        np.testing.assert_array_equal(
            open_split(data, "train", (Label(2),)).all()["x"], noise(4, 8, 8, 1)
        )
    for wrong in ("of_mine:other", "not_there:make", "of_mine", "os:abort", "of_mine:os.abort"):
        with pytest.raises(UserError, match=wrong):
            open_split(DataConfig(prepare=wrong), "train", ())


@settings
class Points:
    """Settings of a data kind from elsewhere."""

    count: int = 5

    def open(self, split, conditions):
        """Points in the plane, with what is asked for."""
        assert split == "train"
        cond = {each.name: np.zeros((self.count, each.size), np.float32) for each in conditions}
        return from_arrays(np.ones((self.count, 2), np.float32), cond, origin="points")


def test_data_kinds_from_elsewhere_open_themselves():
    source = open_split(Points(count=6), "train", (Vector(3),))
    assert source.in_memory() is source
    batch = source.fetch(np.array([1, 5]))
    assert (batch["x"].shape, batch["cond"]["vector"].shape) == ((2, 2), (2, 3))
    assert batch["x"].dtype == np.float32


def test_no_tensorflow():
    assert "tensorflow" not in sys.modules
