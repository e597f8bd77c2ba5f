"""Sets of images: what is opened, in which order and of which shape, and what is refused."""

import hashlib
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from jaxdiff import files
from jaxdiff.arrays import save_npz
from jaxdiff.data.images import fit
from jaxdiff.data.prepared import prepare_arrays
from jaxdiff.errors import UserError
from jaxdiff.evaluation.images import of_arrays, open_images
from jaxdiff.sampling.samples import Samples
from jaxdiff.sampling.shards import shard_paths
from tests.data.preparing import encoded, noise

LABELS = np.array([2, 0, 1, 1, 2, 0, 0, 1, 2, 2, 0])
IMAGES = noise(len(LABELS), 8, 8, 3)


def everything(images):
    return images.fetch(np.arange(len(images)))


def sampled(out, bad=(), images=IMAGES):
    """A folder as sample.py leaves it."""
    Samples(
        images=images,
        cond={"label": LABELS},
        class_names=("a", "b", "c"),
        non_finite=np.array(bad, np.int64),
        source={"num_samples": len(images), "class_names": ["a", "b", "c"], "label": "label"},
    ).save(out)
    return out


def in_shards(out, size=4, bad=()):
    """A folder of a job whose shards are not merged."""
    out = files.parse_path(str(out), "--out")
    files.write_json(out / "settings.json", {"num_samples": len(IMAGES), "shard": size})
    for number, path in enumerate(shard_paths(out, len(IMAGES), size)):
        rows = np.arange(number * size, min((number + 1) * size, len(IMAGES)))
        own = np.array([n for n in bad if n in rows], np.int64)
        save_npz(path, {"images": IMAGES[rows], "non_finite": own})
    return out


def picture(path, image=None, kind="png"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(IMAGES[0] if image is None else image, kind))


# Samples.


def test_a_folder_of_samples(tmp_path):
    out = sampled(tmp_path / "x", bad=[4])
    images = open_images(str(out))
    assert (len(images), images.shape) == (11, (8, 8, 3))
    assert (images.name, images.non_finite) == (str(out), (4,))
    file = out / "samples_11x8x8x3.npz"
    assert images.digest == hashlib.sha256(file.read_bytes()).hexdigest()
    assert (images.class_names, os.fspath(images.folder)) == (("a", "b", "c"), f"{out}/features")
    np.testing.assert_array_equal(images.labels, LABELS)
    rows = [7, 0, 1, 9]
    np.testing.assert_array_equal(images.fetch(np.array(rows)), IMAGES[rows])
    with pytest.raises(UserError, match=r"1 of 11 samples are not finite \(by number: 4\)"):
        images.check_finite()
    # The file itself is the same set.
    same = open_images(str(file))
    assert (same.digest, same.folder) == (images.digest, images.folder)


def test_samples_that_were_changed_are_refused(tmp_path):
    out = sampled(tmp_path / "x")
    save_npz(files.parse_path(str(out / "samples_11x8x8x3.npz"), ""), {"arr_0": 255 - IMAGES})
    with pytest.raises(UserError, match=r"samples_11x8x8x3\.npz was changed since it was written"):
        open_images(str(out))


def test_shards_as_they_are(tmp_path):
    out = in_shards(tmp_path / "x", bad=[1, 9])
    images = open_images(str(out))
    assert (len(images), images.shape, images.labels) == (11, (8, 8, 3), None)
    assert (images.non_finite, os.fspath(images.folder)) == ((1, 9), f"{out}/features")
    rows = np.array([10, 3, 4, 0, 3])
    np.testing.assert_array_equal(images.fetch(rows), IMAGES[rows])
    other = open_images(str(in_shards(tmp_path / "y", bad=[1])))
    assert other.digest != images.digest
    files.remove(out / "shards" / "00001-of-00003.npz")
    with pytest.raises(UserError, match=r"1 of 3 shards of its 11 samples are missing: repeat"):
        open_images(str(out))
    files.remove_tree(out / "shards")
    with pytest.raises(UserError, match="holds no samples yet"):
        open_images(str(out))


def test_samples_in_a_bucket(bucket):
    folder = files.parse_path(str(bucket / "sets"), "--out")
    for place in (sampled(folder / "merged"), in_shards(folder / "shards")):
        images = open_images(str(place))
        np.testing.assert_array_equal(everything(images), IMAGES)
        assert os.fspath(images.folder) == f"{place}/features"


def test_a_folder_with_only_a_file_of_samples(tmp_path):
    np.savez(tmp_path / "samples_11x8x8x3.npz", IMAGES, LABELS)
    images = open_images(str(tmp_path))
    np.testing.assert_array_equal(images.labels, LABELS)
    np.testing.assert_array_equal(everything(images), IMAGES)


# npz files.


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_files(tmp_path, save):
    grey = IMAGES[..., 0]
    save(tmp_path / "a.npz", images=grey, labels=LABELS, class_names=np.array(["x", "y", "z"]))
    save(tmp_path / "b.npz", arr_0=np.asfortranarray(IMAGES))
    images = open_images(str(tmp_path / "a.npz"))
    assert (images.shape, images.class_names) == ((8, 8, 1), ("x", "y", "z"))
    assert os.fspath(images.folder) == str(tmp_path / "a.features")
    np.testing.assert_array_equal(everything(images)[..., 0], grey)
    np.testing.assert_array_equal(everything(open_images(str(tmp_path / "b.npz"))), IMAGES)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"arr_0": IMAGES / np.float32(255)}, r"arr_0 of float32 \[11, 8, 8, 3\]"),
        ({"arr_0": np.moveaxis(IMAGES, 3, 1)}, r"uint8 \[11, 3, 8, 8\]"),
        ({"arr_0": IMAGES[0, 0]}, r"uint8 \[8, 3\]"),
        ({"arr_0": IMAGES[:0]}, "at least one"),
        ({"images": IMAGES, "labels": LABELS[:4]}, r"labels of int64 \[4\] for 11 images"),
        ({"images": IMAGES, "labels": LABELS / 2}, "labels of float64"),
        ({"x": IMAGES}, "holds x, and no images"),
    ],
)
def test_npz_files_that_hold_no_images(tmp_path, content, words):
    np.savez(tmp_path / "x.npz", **content)
    with pytest.raises(UserError, match=words) as error:
        open_images(str(tmp_path / "x.npz"))
    assert str(tmp_path / "x.npz") in str(error.value)


def test_corrupt_npz_files(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, arr_0=IMAGES)
    content = path.read_bytes()
    place = content.index(IMAGES.tobytes()) + 5
    flipped = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
    for broken in (content[: len(content) // 2], flipped, b"GIF89a"):
        path.write_bytes(broken)
        with pytest.raises(UserError, match="cannot be read as an npz file"):
            open_images(str(path))
    with pytest.raises(UserError, match=r"nowhere does not exist"):
        open_images(str(tmp_path / "nowhere"))


# Folders of pictures.


def test_pictures_in_the_order_of_their_names(tmp_path, monkeypatch):
    for number in (3, 0, 10, 2):
        picture(tmp_path / f"{number:03d}.png", IMAGES[number])
    (tmp_path / "notes.txt").write_text("x")
    images = open_images(str(tmp_path))
    np.testing.assert_array_equal(everything(images), IMAGES[[0, 2, 3, 10]])
    assert (images.lossy, images.labels) == (0, None)
    assert os.fspath(images.folder) == f"{tmp_path}.features"
    assert "1 with .txt" in images.notes[0]
    monkeypatch.chdir(tmp_path)
    assert open_images(".").folder == images.folder
    before = images.digest
    picture(tmp_path / "002.png", IMAGES[5])
    assert open_images(str(tmp_path)).digest != before


def test_class_folders_are_labels(tmp_path):
    for number, name in ((0, "cat/1.png"), (1, "dog/1.JPEG"), (2, "cat/2.png"), (3, "ant/9.png")):
        picture(tmp_path / name, IMAGES[number], "jpeg" if name.endswith("JPEG") else "png")
    images = open_images(str(tmp_path))
    assert (images.class_names, images.labels.tolist()) == (("ant", "cat", "dog"), [0, 1, 1, 2])
    assert images.lossy == 1
    np.testing.assert_array_equal(images.fetch(np.arange(3)), IMAGES[[3, 0, 2]])


def test_pictures_of_several_sizes(tmp_path):
    sizes = {"a.png": (24, 18, 3), "b.png": (18, 24, 3), "c.png": (30, 30, 1)}
    shown = {name: noise(*shape, seed=n) for n, (name, shape) in enumerate(sizes.items())}
    for name, image in shown.items():
        picture(tmp_path / name, image.squeeze())
    with pytest.raises(UserError, match=r"b\.png has 18x24 pixels.*others have 24x18.*image_size"):
        open_images(str(tmp_path))
    images = open_images(str(tmp_path), image_size=8)
    assert images.shape == (8, 8, 3)
    expected = [fit(image, 8, 3) for image in shown.values()]
    np.testing.assert_array_equal(everything(images), expected)
    assert open_images(str(tmp_path), image_size=9).digest != images.digest
    assert open_images(str(tmp_path), image_size=8, fit="pad").digest != images.digest


def test_grey_pictures_have_one_channel(tmp_path):
    picture(tmp_path / "a.png", IMAGES[0, ..., 0])
    picture(tmp_path / "b.png", IMAGES[1, ..., 0])
    images = open_images(str(tmp_path))
    np.testing.assert_array_equal(everything(images), IMAGES[:2, ..., :1])


def test_pictures_of_16_bits_share_their_white(tmp_path):
    for name, value in (("a.png", 60000), ("b.png", 600)):
        Image.fromarray(np.full((4, 4), value, np.uint16)).save(tmp_path / name)
    images = everything(open_images(str(tmp_path)))
    assert images[:, 0, 0, 0].tolist() == [round(60000 / 257), round(600 / 257)]


def test_splits_of_a_folder(tmp_path):
    for number, name in enumerate(("train/1.png", "train/2.png", "val/1.png")):
        picture(tmp_path / name, IMAGES[number])
    assert len(open_images(str(tmp_path))) == 2
    np.testing.assert_array_equal(everything(open_images(str(tmp_path), split="val")), IMAGES[[2]])
    with pytest.raises(UserError, match="has no split test: it has train, val"):
        open_images(str(tmp_path), split="test")
    np.savez(tmp_path / "x.npz", arr_0=IMAGES)
    with pytest.raises(UserError, match="--split is val, but .*x.npz holds no splits"):
        open_images(str(tmp_path / "x.npz"), split="val")


def test_what_is_no_picture(tmp_path):
    with pytest.raises(UserError, match="holds no files, and no pictures"):
        open_images(str(tmp_path))
    picture(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no picture")
    with pytest.raises(UserError, match=r"b\.png is no whole picture \(Pillow knows"):
        open_images(str(tmp_path))
    (tmp_path / "b.png").write_bytes(encoded(noise(8, 8, 3))[:150])
    with pytest.raises(UserError, match=r"b\.png is no whole picture \(.*truncated"):
        everything(open_images(str(tmp_path)))
    (tmp_path / "b.png").unlink()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="is the folder of a run"):
        open_images(str(tmp_path))


# Prepared datasets.


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "mine"
    splits = {
        "train": {"x": IMAGES, "cond": {"label": LABELS}},
        "test": {"x": IMAGES[:3] // 2, "cond": {"label": LABELS[:3]}},
    }
    return prepare_arrays(folder, splits, ("a", "b", "c"))


def test_a_prepared_dataset(dataset):
    images = open_images(dataset)
    assert (len(images), images.shape, images.class_names) == (11, (8, 8, 3), ("a", "b", "c"))
    assert (images.name, os.fspath(images.folder)) == (dataset, f"{dataset}.features")
    np.testing.assert_array_equal(everything(images), IMAGES)
    np.testing.assert_array_equal(images.labels, LABELS)
    test = open_images(dataset, split="test")
    np.testing.assert_array_equal(everything(test), IMAGES[:3] // 2)
    small = open_images(dataset, split="test", image_size=4)
    np.testing.assert_array_equal(everything(small), [fit(i // 2, 4, 3) for i in IMAGES[:3]])
    assert len({images.digest, test.digest, small.digest}) == 3
    with pytest.raises(UserError, match="has no split val: it has train, test"):
        open_images(dataset, split="val")


def test_a_dataset_of_images_that_are_no_squares(tmp_path):
    splits = {"train": {"x": noise(3, 8, 6, 3), "cond": {}}}
    folder = prepare_arrays(tmp_path / "mine", splits)
    with pytest.raises(UserError, match=r"shape \(8, 6, 3\): give the --image_size"):
        open_images(folder)
    images = open_images(folder, image_size=6)
    assert (images.shape, images.labels) == ((6, 6, 3), None)


# Any set.


def test_arrays_and_some_of_a_set(tmp_path):
    images = of_arrays(IMAGES, LABELS, "mine", ("a", "b", "c"))
    rows = [9, 2, 4]
    some = images.take(rows)
    assert (len(some), some.shape, some.name) == (3, (8, 8, 3), "mine")
    np.testing.assert_array_equal(some.fetch(np.array([2, 0])), IMAGES[[4, 9]])
    np.testing.assert_array_equal(some.labels, LABELS[rows])
    digests = {images.digest, some.digest, images.take(rows[::-1]).digest, of_arrays(IMAGES).digest}
    assert len(digests) == 4
    assert of_arrays(IMAGES[..., 0]).shape == (8, 8, 1)
    with pytest.raises(UserError, match="mine holds images of float64"):
        of_arrays(IMAGES / 255, name="mine")
    bad = open_images(str(sampled(tmp_path / "x", bad=[2, 7]))).take(rows)
    assert bad.non_finite == (1,)


def test_images_are_brought_to_a_size(tmp_path):
    np.savez(tmp_path / "x.npz", arr_0=IMAGES)
    images = open_images(str(tmp_path / "x.npz"), image_size=4)
    np.testing.assert_array_equal(everything(images), [fit(image, 4, 3) for image in IMAGES])
    assert open_images(str(tmp_path / "x.npz"), image_size=8).digest != images.digest
    picture(tmp_path / "pictures" / "a.png", noise(6, 9, 3))
    np.savez(tmp_path / "wide.npz", arr_0=noise(2, 6, 9, 3))
    for name in ("pictures", "wide.npz"):  # else kept features of the one were those of the other
        both = [open_images(str(tmp_path / name), image_size=4, fit=how) for how in ("crop", "pad")]
        assert both[0].digest != both[1].digest
        assert np.any(everything(both[0]) != everything(both[1]))
    same = open_images(str(tmp_path / "x.npz"))
    assert open_images(str(tmp_path / "x.npz"), image_size=8).digest == same.digest


@pytest.mark.skipif("JAXDIFF_TEST_DATA" not in os.environ, reason="needs the photographs")
def test_photographs(tmp_path):
    archive = os.path.join(os.environ["JAXDIFF_TEST_DATA"], "caltech12.tar")
    shutil.unpack_archive(archive, tmp_path, filter="data")
    images = open_images(str(tmp_path / "caltech12"), image_size=64)
    assert (len(images), images.shape, images.lossy) == (1447, (64, 64, 3), 1447)
    assert np.bincount(images.labels).sum() == 1447
    assert len(images.class_names) == 12
    assert 60 < images.fetch(np.arange(0, 1447, 100)).mean() < 200
