"""Folders of pictures: all kinds are read, no class is lost, and no picture uncounted."""

import io
import json
import os
import pathlib
import tarfile

import numpy as np
import pytest
from PIL import Image as Picture

from jaxdiff.config import Image, Label
from jaxdiff.data import prepared
from jaxdiff.data.images import fit
from jaxdiff.data.prepare import Preparation, described, prepare
from jaxdiff.errors import UserError
from jaxdiff.locks import own_lock
from tests.data.preparing import encoded, noise, prepare_here, read, tell_apart
from tests.disk import with_mode

SETTINGS = {"image_size": 8, "channels": 1}
AB = (Label(2),)


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(prepared, "SHARD_SIZE", 4)


def values_of(rows):
    return rows["x"][:, 0, 0, 0].tolist()


def pictures():
    """{file: (bytes, uint8 [H, W, 1 or 3] that it shows)} of many kinds and sizes."""
    colour, grey = noise(40, 60, 3), noise(33, 17, 1, seed=1)
    deep = noise(5, 16, seed=2)
    deep[0, 0] = 255
    # Hard-edged quarters, so that an image turned the wrong way differs.
    corner = np.zeros((30, 50, 3), np.uint8)
    corner[:15, :25] = 200, 100, 50
    exif = Picture.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    palette = Picture.fromarray(colour).quantize(16)
    shown = np.asarray(palette.convert("RGB"))
    cmyk = encoded(Picture.fromarray(colour).convert("CMYK"), "jpeg")
    jpeg = encoded(colour, "jpeg")
    first, *others = [Picture.fromarray(np.full((20, 20), v, np.uint8)) for v in (10, 250)]
    return {
        "a colour.png": (encoded(colour), colour),
        "alpha.PNG": (encoded(np.dstack([colour, colour[..., 0]])), colour),
        "bits.png": (encoded(deep.astype(np.uint16) * 257), deep[..., None]),
        "cmyk.jpg": (cmyk, np.asarray(Picture.open(io.BytesIO(cmyk)).convert("RGB"))),
        "exif.png": (encoded(corner, exif=exif), np.rot90(corner, -1)),
        "first.gif": (
            encoded(first, "gif", save_all=True, append_images=others),
            np.full((20, 20, 3), 10, np.uint8),
        ),
        "grey.bmp": (encoded(grey[..., 0], "bmp"), grey),
        "jpeg.jpeg": (jpeg, np.asarray(Picture.open(io.BytesIO(jpeg)))),
        "palette.png": (encoded(palette), shown),
        "transparent.png": (encoded(palette, transparency=bytes(16)), shown),
        "webp.webp": (encoded(colour, "webp", lossless=True), colour),
        "wide.tif": (encoded(noise(16, 300, 3), "tiff"), noise(16, 300, 3)),
    }


def write_pictures(folder):
    """Two classes of pictures below a folder; what each shows, in order."""
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for file, (data, _) in pictures().items():
            (folder / name / file).write_bytes(data)
    return [image for _ in range(2) for _, image in pictures().values()]


@pytest.mark.parametrize(("channels", "workers"), [(1, 0), (3, 2)])
def test_pictures_of_every_kind_are_fitted(tmp_path, small_shards, channels, workers):
    shown = write_pictures(tmp_path / "in")
    out = tmp_path / "out"
    settings = {"image_size": 16, "channels": channels, "workers": workers}
    report = prepare_here("folder", tmp_path / "in", out=out, **settings)
    assert (report.sizes, report.skipped) == ({"train": 24}, 0)
    source, rows = read(out, "train", AB, 16, channels)
    assert source.class_names == ("cat", "dog")
    np.testing.assert_array_equal(rows["cond"]["label"], np.repeat([0, 1], 12))
    for n, image in enumerate(shown):
        np.testing.assert_array_equal(rows["x"][n], fit(image, 16, channels), str(n))


def test_condition_images_come_from_a_second_folder(tmp_path, small_shards):
    photographs, depths = tmp_path / "photographs", tmp_path / "depths"
    maps = []
    for number in range(6):
        name = f"{'ab'[number % 2]}/{number}"
        for folder in (photographs, depths):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (photographs / f"{name}.jpg").write_bytes(
            encoded(noise(20, 30, 3, seed=number), "jpeg", quality=95)
        )
        # 12 bits, of which the largest value is in one picture.
        values = np.full((20, 30), 819 * number, np.uint16)
        (depths / f"{name}.png").write_bytes(encoded(values))
        maps.append(819 * number)
    (depths / "a" / "more.png").write_bytes(encoded(noise(4, 4)))
    settings = {"image_size": 16, "condition_image": (str(depths),)}
    prepare_here("folder", photographs, out=tmp_path / "out", **settings)
    _, rows = read(tmp_path / "out", "train", (Label(2), Image(1)), 16, 3)
    order = [0, 2, 4, 1, 3, 5]
    for n, number in enumerate(order):
        shade = np.round(maps[number] * 255 / 4095) / 127.5 - 1
        np.testing.assert_allclose(rows["cond"]["image"][n], np.full((16, 16, 1), shade), atol=1e-6)
        with Picture.open(photographs / f"{'ab'[number % 2]}/{number}.jpg") as picture:
            np.testing.assert_array_equal(rows["x"][n], fit(np.asarray(picture), 16, 3))
    (depths / "b" / "3.png").unlink()
    with pytest.raises(UserError, match=r"b/3\.jpg"):
        prepare_here("folder", photographs, out=tmp_path / "other", **settings)


def test_condition_images_of_another_shape_are_skipped(tmp_path, small_shards):
    for name, size, other in (("a", (12, 8), (6, 4)), ("b", (12, 8), (8, 12))):
        for folder, shape in (("in", size), ("maps", other)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Picture.fromarray(noise(*shape)).save(tmp_path / folder / f"{name}.png")
    values = {"image_size": 8, "condition_image": (f"{tmp_path}/maps",)}
    report = prepare_here("folder", tmp_path / "in", out=tmp_path / "out", **values)
    assert (report.sizes, report.skipped) == ({"train": 1}, 1)
    assert "b.png: it is 12x8" in (tmp_path / "out" / "skipped.txt").read_text()
    (tmp_path / "maps").rename(tmp_path / "moved")  # the same request wherever the folder is
    values["condition_image"] = (f"{tmp_path}/moved",)
    assert prepare_here("folder", tmp_path / "in", out=tmp_path / "out", **values).was_there
    (tmp_path / "new").mkdir()
    with own_lock(tmp_path / "new" / ".lock", "It"), pytest.raises(UserError, match="in use"):
        prepare_here("folder", tmp_path / "in", out=tmp_path / "new", **values)
    with pytest.raises(UserError, match="gs://bucket/in"):
        prepare_here("folder", "gs://bucket/in", out=tmp_path / "other", **values)


def test_bad_files_are_skipped_listed_and_counted(tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    shown = write_pictures(folder)
    whole = pictures()["a colour.png"][0]
    (folder / "cat" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "dog" / "text.jpg").write_text("no picture")
    (folder / "dog" / "gone.png").symlink_to(tmp_path / "gone.png")
    (folder / "dog" / ".hidden.jpg").write_text("not looked at")
    (folder / "dog" / "notes.txt").write_text("not looked at")
    os.mkfifo(folder / "cat" / "pipe.png")  # to read it would never end
    values = Preparation(name="mine", out=str(out), image_size=8)
    dataset, report = prepare("folder", [folder], values)
    said = "\n".join(described(dataset, report, out))
    for words in ("train 24", f"Skipped 3 files, listed in {out}", "1 with .txt", "1 hidden"):
        assert words in said
    listed = dict(line.split(": ", 1) for line in (out / "skipped.txt").read_text().splitlines())
    assert sorted(listed) == ["cat/cut.png", "dog/gone.png", "dog/text.jpg"]
    assert "truncated" in listed["cat/cut.png"]
    _, rows = read(out, "train", AB, 8, 3)
    np.testing.assert_array_equal(rows["x"], [fit(image, 8, 3) for image in shown])
    again = prepare("folder", [folder], values)[1]
    assert (again.was_there, again.skipped, again.counts) == (True, 3, report.counts)


def test_a_folder_without_a_good_picture_is_refused(tmp_path):
    (tmp_path / "in" / "cat").mkdir(parents=True)
    out = tmp_path / "out"
    for file, words in ((None, "no files"), ("notes.txt", "end in .txt")):
        if file:
            (tmp_path / "in" / "cat" / file).touch()
        with pytest.raises(UserError, match=words):
            prepare_here("folder", tmp_path / "in", out=out, **SETTINGS)
    assert not out.exists()
    (tmp_path / "in" / "cat" / "a.jpg").touch()
    with pytest.raises(UserError, match=r"None of the 1 images .*skipped\.txt"):
        prepare_here("folder", tmp_path / "in", out=out, **SETTINGS)
    with pytest.raises(UserError, match="repeat its command"):
        read(out)


def test_class_folders_are_text_and_files_need_not_be(tmp_path):
    tell_apart(tmp_path / "in", ["a/1.png", "a/2.png", "b/3.png"])
    (tmp_path / "in" / "a" / "2.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/in/a/\xff.png"))
    report = prepare_here("folder", tmp_path / "in", out=tmp_path / "out", **SETTINGS)
    assert report.sizes == {"train": 3}
    (tmp_path / "in" / "b").rename(os.fsdecode(os.fsencode(tmp_path) + b"/in/b\xff"))
    with pytest.raises(UserError, match="UTF-8"):
        prepare_here("folder", tmp_path / "in", out=tmp_path / "other", **SETTINGS)
    assert not (tmp_path / "other").exists()


def test_images_of_each_class_are_counted(tmp_path, small_shards):
    names = ["train/a/1.png", "train/b/2.png", "train/b/3.png", "test/c/4.png", "test/a/5.png"]
    tell_apart(tmp_path / "in", names)
    (tmp_path / "in" / "train" / "b" / "3.png").write_text("no picture")
    values = Preparation(name="mine", out=str(tmp_path / "out"), **SETTINGS)
    dataset, report = prepare("folder", [tmp_path / "in"], values)
    assert dataset.classes == ("a", "b", "c")
    assert report.counts == {"train": [1, 1, 0], "test": [1, 0, 1]}
    said = "\n".join(described(dataset, report, tmp_path / "out"))
    assert "Classes without images in the split train: c\n" in said
    assert "Label(3)" in said
    # Values 1 and 2 of 255, so 1/127.5 apart; and all sides are 8.
    assert f"data_std={0.5 / 127.5:.4f}" in said
    assert "image_size=8," in said
    assert read(tmp_path / "out", "train", (Label(3),))[0].empty == (2,)


def test_folders_with_names_of_splits_are_splits(tmp_path):
    names = ["train/b/1.png", "train/a/x/2.png", "val/b/3.png", "validation/b/4.png"]
    values = tell_apart(tmp_path / "in", names)
    with pytest.raises(UserError, match="train, val, validation"):
        prepare_here("folder", tmp_path / "in", out=tmp_path / "out", held_out=0.5, **SETTINGS)
    prepare_here("folder", tmp_path / "in", out=tmp_path / "out", **SETTINGS)
    expected = {"train": [names[1], names[0]], "val": names[2:3], "validation": names[3:]}
    for split, files in expected.items():
        source, rows = read(tmp_path / "out", split, AB)
        assert source.class_names == ("a", "b")
        assert values_of(rows) == [values[name] for name in files]
        assert rows["cond"]["label"].tolist() == [int("/b/" in name) for name in files]


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_the_same_share_of_each_class_is_held_out(tmp_path, share):
    names = [f"{c}/{n:02d}.png" for c, count in (("a", 40), ("b", 20)) for n in range(count)]
    values = tell_apart(tmp_path / "in", names)
    report = prepare_here(
        "folder", tmp_path / "in", out=tmp_path / "out", held_out=share, **SETTINGS
    )
    assert report.sizes["test"] == pytest.approx(60 * share, abs=1e-6)
    seen = []
    for split in ("train", "test"):
        rows = read(tmp_path / "out", split, AB)[1]
        seen += values_of(rows)
        counts = np.bincount(rows["cond"]["label"])
        assert counts[0] == 2 * counts[1]
    assert sorted(seen) == sorted(values.values())


def test_pictures_without_class_folders_have_no_labels(tmp_path):
    tell_apart(tmp_path / "in", ["1.png", "2.png"])
    prepare_here("folder", tmp_path / "in", out=tmp_path / "out", **SETTINGS)
    assert len(read(tmp_path / "out")[0]) == 2
    with pytest.raises(UserError, match="feature label"):
        read(tmp_path / "out", "train", AB)
    with pytest.raises(UserError, match="--out"):
        prepare_here("folder", tmp_path / "in", out=tmp_path / "in" / "out", **SETTINGS)


@pytest.mark.parametrize("mode", [0, 0o444])
def test_a_class_that_may_not_be_read_is_not_left_out(tmp_path, mode):
    tell_apart(tmp_path / "in", ["a/1.png", "c/x/3.png"])
    with with_mode(tmp_path / "in" / "c/x", mode), pytest.raises(UserError, match="in/c/x"):
        prepare_here("folder", tmp_path / "in", out=tmp_path / "out", **SETTINGS)
    assert not (tmp_path / "out").exists()


def test_links_are_followed_but_none_that_leads_back_or_nowhere(tmp_path):
    one, two = tell_apart(tmp_path / "in", ["a/1.png", "b/x/2.png"]).values()
    (tmp_path / "in" / "a" / "back").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "b" / "x" / "up").symlink_to(tmp_path)
    # A class that is another's twin is one, and so are both of two links to one place.
    for name in ("c", "d"):
        (tmp_path / "in" / name).symlink_to(tmp_path / "in" / "a")
    prepare_here("folder", tmp_path / "in", out=tmp_path / "out", **SETTINGS)
    source, rows = read(tmp_path / "out", "train", (Label(4),))
    assert source.class_names == ("a", "b", "c", "d")
    assert values_of(rows) == [one, two, one, one]
    assert rows["cond"]["label"].tolist() == [0, 1, 2, 3]
    (tmp_path / "in" / "e").symlink_to("gone")
    with pytest.raises(UserError, match="in/e"):
        prepare_here("folder", tmp_path / "in", out=tmp_path / "other", **SETTINGS)


def adm_crop(picture, size):
    """As the reference writes it."""
    while min(*picture.size) >= 2 * size:
        picture = picture.resize(tuple(x // 2 for x in picture.size), resample=Picture.BOX)
    scale = size / min(*picture.size)
    shape = tuple(round(x * scale) for x in picture.size)
    array = np.array(picture.resize(shape, resample=Picture.BICUBIC))
    y, x = (array.shape[0] - size) // 2, (array.shape[1] - size) // 2
    return array[y : y + size, x : x + size]


# A folder with caltech12.tar (caltech12/CLASS/*.jpg of any sizes).
REAL = os.environ.get("JAXDIFF_TEST_DATA", "")


@pytest.mark.skipif(not REAL, reason="JAXDIFF_TEST_DATA names no folder of real data")
def test_photographs(tmp_path):
    with tarfile.open(pathlib.Path(REAL) / "caltech12.tar") as tar:
        names = sorted(name for name in tar.getnames() if name.endswith(".jpg"))[::25]
        tar.extractall(tmp_path, [tar.getmember(name) for name in names], filter="data")
    prepare_here("folder", tmp_path / "caltech12", image_size=64, out=tmp_path / "out")
    source, rows = read(tmp_path / "out", "train", (Label(12),), 64, 3)
    for name, image, label in zip(names, rows["x"], rows["cond"]["label"], strict=True):
        assert source.class_names[label] == name.split("/")[1]
        picture = Picture.open(tmp_path / name).convert("RGB")
        np.testing.assert_array_equal(image, adm_crop(picture, 64), name)
    assert json.loads((tmp_path / "out" / "request.json").read_text())["sources"][0] == len(names)
