import io
import json
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from jaxdiff.data import npz, prepared
from jaxdiff.data import source as source_lib
from jaxdiff.data.source import open_source
from jaxdiff.errors import UserError


class Photographs(tfds.core.GeneratorBasedBuilder):
    """PNG images of many sizes, as a user's own TFDS dataset has them."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(names=["dark", "light"]),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for number in range(10):
            file = io.BytesIO()
            value = 20 + 200 * (number % 2)
            Image.fromarray(np.full((16 + number, 40, 3), value, np.uint8)).save(file, "png")
            file.seek(0)
            yield number, {"image": file, "label": number % 2}


@pytest.fixture(scope="module")
def photographs():
    builder = Photographs(file_format="array_record")
    builder.download_and_prepare()
    return builder


@pytest.mark.parametrize("by", ["name", "folder"])
def test_any_array_record_dataset_is_read(photographs, by):
    name = photographs.info.name if by == "name" else str(photographs.data_path)
    source = open_source(name, "train", image_size=8, channels=3, num_classes=2)
    assert source.label_names == ("dark", "light")
    rows = source.all()
    assert rows["image"].shape == (10, 8, 8, 3)
    assert rows["image"].dtype == np.uint8
    assert rows["label"].dtype == np.int32
    np.testing.assert_array_equal(rows["image"][:, 4, 4, 0], 20 + 200 * rows["label"])


def test_large_sets_stay_on_disk(photographs, monkeypatch):
    source = open_source("photographs", "train", image_size=8, channels=1, num_classes=2)
    monkeypatch.setattr(source_lib, "IN_MEMORY_BYTES", 10 * 8 * 8)
    assert source.in_memory() is source
    monkeypatch.setattr(source_lib, "IN_MEMORY_BYTES", 10 * 8 * 8 + 1)
    assert source.in_memory() is not source


def test_smaller_images_can_be_padded(photographs):
    shape = {"image_size": 48, "channels": 3, "num_classes": 2}
    rows = open_source("photographs", "train", **shape, fit="pad").all()
    heights = sorted((rows["image"][:, :, 4:44] > 0).all((2, 3)).sum(1))
    assert heights == list(range(16, 26))
    assert not rows["image"][:, :, :4].any()


def test_labels_can_be_ignored(photographs):
    source = open_source("photographs", "train", image_size=8, channels=3, num_classes=0)
    assert source.label_names == ()


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("digitz", {}, "digitz is neither"),
        ("mnist", {}, "tfds build mnist --file_format=array_record"),
        ("photographs", {"num_classes": 3}, "has 2 classes"),
        ("digits", {"split": "validation"}, "train, test"),
    ],
)
def test_datasets_that_cannot_be_used_are_refused(photographs, name, changes, words):
    arguments = {"split": "train", "image_size": 8, "channels": 1, "num_classes": 10, **changes}
    with pytest.raises(UserError, match=words):
        open_source(name, **arguments)


def test_a_set_in_another_file_format_is_refused(tmp_path, monkeypatch):
    class Unreadable:
        info = tfds.builder("digits").info

        def as_data_source(self, split):
            raise NotImplementedError

    monkeypatch.setattr(source_lib, "_builder", lambda name: Unreadable())
    with pytest.raises(UserError, match="not stored as ArrayRecord.*tfds build old"):
        open_source("old", "train", image_size=8, channels=1, num_classes=10)


def flip(path):
    data = bytearray(path.read_bytes())
    data[70] ^= 4  # in the header of its first chunk
    path.write_bytes(data)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A dataset in three files, as jaxdiff prepares them."""
    folder = tmp_path_factory.mktemp("whole")
    images = np.random.RandomState(0).randint(0, 256, (10, 8, 8, 1)).astype(np.uint8)
    file = folder / "train.npz"
    np.savez(file, images=images, labels=np.arange(10) % 2, class_names=["a", "b"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepared, "SHARD_SIZE", 4)
        prepared.write(folder / "data", "mine", npz.open_files([file]))
    return folder / "data"


SECOND = "mine-train.array_record-00001-of-00003"


@pytest.mark.parametrize(
    ("file", "change"),
    [
        (SECOND, flip),
        (SECOND, lambda path: path.unlink()),
        (SECOND, lambda path: path.write_bytes(path.read_bytes()[:70_000])),
        (SECOND, lambda path: path.write_bytes(b"")),
        ("features.json", lambda path: path.unlink()),
        ("label.labels.txt", lambda path: path.write_text("a\n")),
        ("label.labels.txt", lambda path: path.write_text("b\na\n")),
        *(
            (file, lambda path, content=content: path.write_bytes(content))
            for file in ("dataset_info.json", "features.json", "request.json", "summary.json")
            for content in (b"", b"{", b"null", b"[]", b"{}", b"\xff{}", b"[" * 10**5)
        ),
    ],
)
def test_what_is_damaged_is_named(tmp_path, whole, file, change):
    folder = tmp_path / "data"
    shutil.copytree(whole, folder)
    change(folder / file)
    with pytest.raises(UserError, match=file) as refusal:
        open_source(str(folder), "train", image_size=8, channels=1, num_classes=2).all()
    assert "\n" not in str(refusal.value)


def test_fields_that_are_not_there_are_named(tmp_path, whole):
    folder = tmp_path / "data"
    shutil.copytree(whole, folder)
    info = json.loads((folder / "dataset_info.json").read_text())
    for name in ("name", "splits", "version"):
        (folder / "dataset_info.json").write_text(
            json.dumps({k: v for k, v in info.items() if k != name})
        )
        with pytest.raises(UserError, match=f"dataset_info.json.*{name}"):
            open_source(str(folder), "train", image_size=8, channels=1, num_classes=2)


@pytest.mark.parametrize("name", ["x" * 5000, "mnist:9.9.9", "gs://bucket/data", "²"])
def test_names_that_can_name_nothing_are_refused(name):
    with pytest.raises(UserError, match="data.name") as refusal:
        open_source(name, "train", image_size=8, channels=1, num_classes=0)
    assert len(str(refusal.value)) < 1000


class Scores(tfds.core.GeneratorBasedBuilder):
    """Images whose label is a vector."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Tensor(shape=(8, 8, 1), dtype=np.uint8),
            "label": tfds.features.Tensor(shape=(3,), dtype=np.float32),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for number in range(3):
            image = np.full((8, 8, 1), number, np.uint8)
            yield number, {"image": image, "label": np.ones(3, np.float32)}


def test_a_label_that_is_no_class_can_be_ignored():
    Scores(file_format="array_record").download_and_prepare()
    rows = open_source("scores", "train", image_size=8, channels=1, num_classes=0).all()
    assert sorted(rows["image"][:, 0, 0, 0]) == [0, 1, 2]
    with pytest.raises(UserError, match=r"label .* Tensor .* data\.num_classes to 0"):
        open_source("scores", "train", image_size=8, channels=1, num_classes=3)
