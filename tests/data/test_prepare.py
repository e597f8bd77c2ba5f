"""Datasets of a user's own: what is written, what is refused, and what a stop leaves."""

import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import tarfile
import time
import types
import weakref
import zipfile

import numpy as np
import pytest
from PIL import Image


from jaxdiff.data import npz, prepared
from jaxdiff.data.images import fit
from jaxdiff.data.prepare import described, prepare
from jaxdiff.data.source import open_source, open_split
from jaxdiff.errors import UserError
from tests.conftest import ROOT
from tests.refusals import check

NAMES = ("T-shirt/top", "Ankle boot", "ß")


def command(*arguments, environment=(), before=()):
    return subprocess.Popen(
        [*before, sys.executable, "-m", "jaxdiff.data.prepare", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **dict(environment)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*arguments, **kwargs):
    process = command(*arguments, **kwargs)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def prepare_here(kind, *sources, **values):
    """The same without another process."""
    defaults = {"name": "mine", "held_out": 0, "workers": 0}
    defaults |= dict.fromkeys(("image_size", "channels", "layout", "bits"))
    return prepare(kind, sources, types.SimpleNamespace(**{**defaults, **values}))


def read(folder, split, classes, size=8, channels=1):
    source = open_source(
        str(folder), split, image_size=size, channels=channels, num_classes=classes
    )
    return source, source.all()


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def contents(folder):
    """{file: (its bytes, when it was written)}."""
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def data_bytes(folder):
    return {name: data for name, (data, _) in contents(folder).items()}


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(prepared, "SHARD_SIZE", 4)


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


@pytest.fixture
def files(tmp_path):
    """train.npz and test.npz, and what is in them."""
    arrays = {
        split: {"images": noise(size, 8, 8, 1, seed=size), "labels": np.arange(size) % 3}
        for split, size in (("train", 10), ("test", 5))
    }
    paths = [save(tmp_path / f"{s}.npz", **arrays[s], class_names=NAMES) for s in arrays]
    return paths, arrays


def test_npz_files_come_back_through_the_command_line(tmp_path, files):
    paths, arrays = files
    # TensorFlow, were it there, must not be imported.
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "tensorflow.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')")
    environment = {"PYTHONPATH": os.pathsep.join([str(tmp_path / "path"), str(ROOT)])}
    out = tmp_path / "out"
    asked = ["npz", *paths, "--name", "mine", "--out", out]
    code, text, err = run(*asked, environment=environment)
    assert (code, text.splitlines()[0]) == (0, f"{out}: train 10, test 5"), err
    assert not (tmp_path / "imported").exists()
    for split, expected in arrays.items():
        source, rows = read(out, split, 3)
        assert source.label_names == NAMES
        np.testing.assert_array_equal(rows["image"], expected["images"])
        np.testing.assert_array_equal(rows["label"], expected["labels"])
    before = contents(out)
    assert not any(name.startswith(".") for name in before)
    assert run(*asked)[1].startswith(f"{out} was there already: train 10, test 5\n")
    assert contents(out) == before


@pytest.mark.parametrize("channels", [1, 3])
def test_other_keys_shapes_and_colours(tmp_path, small_shards, channels):
    images = noise(6, 5, 9, 3)
    path = save(tmp_path / "train.npz", arr_0=images, arr_1=np.array([2, 0, 1, 1, 0, 2]))
    prepare_here("npz", path, out=tmp_path / "kept")
    source, rows = read(tmp_path / "kept", "train", 3, size=5, channels=channels)
    assert source.label_names == ("0", "1", "2")
    expected = np.stack([fit(image, 5, channels) for image in images])
    np.testing.assert_array_equal(rows["image"], expected)
    prepare_here("npz", path, out=tmp_path / "fitted", image_size=5, channels=channels)
    np.testing.assert_array_equal(
        read(tmp_path / "fitted", "train", 3, size=5, channels=channels)[1]["image"], expected
    )


def test_images_without_channels_and_labels(tmp_path):
    images = noise(3, 8, 8)
    prepare_here("npz", save(tmp_path / "train.npz", images=images), out=tmp_path / "out")
    source, rows = read(tmp_path / "out", "train", 0)
    assert source.label_names == ()
    np.testing.assert_array_equal(rows["image"][..., 0], images)
    with pytest.raises(UserError, match="has 0 classes"):
        read(tmp_path / "out", "train", 3)


def test_a_config_pads_small_images(tmp_path):
    images = noise(3, 28, 28)
    prepare_here("npz", save(tmp_path / "train.npz", images=images), out=tmp_path / "out")
    data = base().data
    data.update(name=str(tmp_path / "out"), image_size=32, channels=1, fit="pad")
    expected = np.pad(images, ((0, 0), (2, 2), (2, 2)))[..., None]
    np.testing.assert_array_equal(open_split(data, "train").all()["image"], expected)


GOOD = {"images": noise(3, 8, 8, 1), "labels": np.arange(3)}


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"pixels": noise(3)}, "holds pixels, and no `images`"),
        ({"images": noise(3, 8, 8, 1) / 255}, r"float64 \[3, 8, 8, 1\]: images must be uint8"),
        ({"images": noise(3, 8, 8, 4)}, "with C 1 or 3"),
        ({"images": noise(0, 8, 8, 1)}, "at least one"),
        ({**GOOD, "labels": np.arange(4)}, r"labels must be integers \[3\]"),
        ({**GOOD, "labels": np.arange(3) - 1}, "from 0 on"),
        ({**GOOD, "labels": np.arange(3) / 2}, "float64"),
        ({**GOOD, "labels": np.array([0, 1, None])}, r"labels` of object \[3\]"),
        ({**GOOD, "labels": np.array([0, 1, 3])}, "the label 3, which makes 4 classes of 3 im"),
        ({**GOOD, "class_names": np.array(["a", 1, None])}, "as Python objects: save them as t"),
        ({**GOOD, "class_names": ["a", "b"]}, "the label 2 and 2 `class_names`"),
        ({**GOOD, "class_names": ["a", "b", "b"]}, "several classes named b"),
        ({**GOOD, "class_names": ["a", "b", ""]}, "a name is one line"),
        ({"images": np.array([None])}, "images must be uint8"),
    ],
)
def test_npz_files_that_cannot_be_used_are_refused(tmp_path, arrays, words):
    path = save(tmp_path / "train.npz", **arrays)
    with pytest.raises(UserError, match=words):
        prepare_here("npz", path, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("images", (28 * 10**9 // 64, 8, 8, 1)),
        ("labels", (28 * 10**9 // 8,)),
        ("images", (-1, 8, 8)),
    ],
)
def test_headers_that_claim_more_than_there_is_are_refused(tmp_path, key, shape):
    path = save(tmp_path / "train.npz", **{name: a for name, a in GOOD.items() if name != key})
    file = io.BytesIO()
    header = {"descr": GOOD[key].dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{key}.npy", file.getvalue() + b"values")
    with pytest.raises(UserError, match=rf"train\.npz .*{key}"):
        prepare_here("npz", path, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_does_not_fit_into_memory_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = save(tmp_path / "train.npz", images=noise(100, 8, 8, 3))
    monkeypatch.setattr(npz, "free_memory", lambda: 100 * 8 * 8 * 3 - 1)
    with pytest.raises(UserError, match=r"train\.npz .*19,200 bytes"):
        prepare_here("npz", path, out=tmp_path / "out")
    with pytest.raises(UserError, match="--image_size is 10000000"):
        prepare_here("npz", path, out=tmp_path / "out", image_size=10**7)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"name": "a" * 5000}, "--name"),
        ({"out": "gs://bucket/data"}, "--out is gs://"),
        ({"layout": "splits"}, "--layout is for folders"),
        ({"bits": 12}, "--bits is for folders"),
    ],
)
def test_flags_that_cannot_be_used_are_refused(tmp_path, files, values, words):
    with pytest.raises(UserError, match=words) as refusal:
        prepare_here("npz", *files[0], **{"out": tmp_path / "out", **values})
    assert len(str(refusal.value)) < 1000
    assert not (tmp_path / "out").exists()


def test_a_large_label_has_a_name(tmp_path):
    names = [f"class {n}" for n in range(2001)]
    path = save(tmp_path / "train.npz", **{**GOOD, "labels": [0, 1, 2000]}, class_names=names)
    prepare_here("npz", path, out=tmp_path / "out")
    assert read(tmp_path / "out", "train", 2001)[1]["label"].tolist() == [0, 1, 2000]


def test_one_file_s_images_are_in_memory_at_a_time(tmp_path, files, monkeypatch):
    paths, _ = files
    dataset, held = npz.open_files(paths), []

    def load(path):
        assert not any(images() is not None for images in held), path
        return plain(path)

    plain = np.load
    monkeypatch.setattr(np, "load", load)
    for split in dataset.splits:
        assert len(list(split.read(0, split.size))) == split.size
        images = npz._images(split.read.args[0])
        held.append(weakref.ref(images))
        del images
    assert [images() is not None for images in held] == [False, True]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"images": noise(3, 9, 8, 1), "labels": np.arange(3)}, "give --image_size"),
        ({"images": noise(3, 8, 8, 1)}, "holds labels and the other none"),
        ({**GOOD, "class_names": ["c", "b", "a"]}, "other `class_names`"),
    ],
)
def test_splits_that_do_not_belong_together_are_refused(tmp_path, other, words):
    paths = [save(tmp_path / "train.npz", **GOOD), save(tmp_path / "test.npz", **other)]
    with pytest.raises(UserError, match=words):
        prepare_here("npz", *paths, out=tmp_path / "out")


def test_damaged_files_and_names_are_refused(tmp_path, files):
    (path, _), _ = files
    out = tmp_path / "out"
    cut = tmp_path / "cut.npz"
    cut.write_bytes(path.read_bytes()[:-100])
    for bad in (cut, tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            prepare_here("npz", bad, out=out)
    with pytest.raises(UserError, match="letters, digits and underscores"):
        prepare_here("npz", path, out=out, name="Mine-1")
    with pytest.raises(UserError, match="a split's name is letters"):
        prepare_here("npz", path.rename(tmp_path / "train-1.npz"), out=out)
    (tmp_path / "elsewhere").mkdir()
    twin = save(tmp_path / "elsewhere" / "train-1.npz", **GOOD)
    with pytest.raises(UserError, match="Two files are called"):
        prepare_here("npz", tmp_path / "train-1.npz", twin, out=out)
    assert not out.exists()


def test_mistakes_end_in_a_sentence():
    lines = [
        ([], "An argument is missing: give npz or folder"),
        (["npz"], "give an npz file or a folder"),
        (["npz", "a.npz", "--out=o"], "--name is missing"),
        (["npz", "a.npz", "--out=o", "--name=n"], "a.npz cannot be read (No such file"),
        (["npz", "a.npz", "--out=o", "--name=n", "--workers=2"], "--workers is for folders"),
        (["zip", "a.zip", "--out=o", "--name=n"], "zip cannot be prepared: give npz or folder"),
    ]
    check("prepare.py", "jaxdiff.data.prepare", lines)


def pictures():
    """{file: (bytes, uint8 [H, W, 1 or 3] that it shows)} of many kinds and sizes."""
    colour, grey = noise(40, 60, 3), noise(33, 17, 1, seed=1)
    deep = noise(5, 16, seed=2)
    # Hard-edged quarters, so that an image turned the wrong way differs.
    corner = np.zeros((30, 50, 3), np.uint8)
    corner[:15, :25] = 200, 100, 50
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    palette = Image.fromarray(colour).quantize(16)
    cmyk = _file(Image.fromarray(colour).convert("CMYK"), "jpeg")
    jpeg = _file(Image.fromarray(colour), "jpeg")
    several = [Image.fromarray(np.full((20, 20), v, np.uint8)) for v in (10, 250)]
    return {
        "a colour.png": (_file(Image.fromarray(colour), "png"), colour),
        "alpha.PNG": (_file(Image.fromarray(np.dstack([colour, colour[..., 0]])), "png"), colour),
        "bits.png": (_file(Image.fromarray(deep.astype(np.uint16) * 257), "png"), deep[..., None]),
        "cmyk.jpg": (cmyk, np.asarray(Image.open(io.BytesIO(cmyk)).convert("RGB"))),
        "exif.png": (_file(Image.fromarray(corner), "png", exif=exif), np.rot90(corner, -1)),
        "first.gif": (
            _file(several[0], "gif", save_all=True, append_images=several[1:]),
            np.full((20, 20, 3), 10, np.uint8),
        ),
        "grey.bmp": (_file(Image.fromarray(grey[..., 0]), "bmp"), grey),
        "jpeg.jpeg": (jpeg, np.asarray(Image.open(io.BytesIO(jpeg)))),
        "palette.png": (_file(palette, "png"), np.asarray(palette.convert("RGB"))),
        "transparent.png": (
            _file(palette, "png", transparency=bytes(16)),
            np.asarray(palette.convert("RGB")),
        ),
        "webp.webp": (_file(Image.fromarray(colour), "webp", lossless=True), colour),
        "wide.tif": (_file(Image.fromarray(noise(16, 300, 3)), "tiff"), noise(16, 300, 3)),
    }


def _file(picture, kind, **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def write_pictures(folder):
    """Two classes of pictures below a folder; what each shows, in order."""
    shown = []
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for file, (data, image) in pictures().items():
            (folder / name / file).write_bytes(data)
            shown.append(image.reshape(*image.shape[:2], -1))
    return shown


@pytest.mark.parametrize(("channels", "workers"), [(1, 0), (3, 2)])
def test_pictures_of_every_kind_are_fitted(tmp_path, small_shards, channels, workers):
    shown = write_pictures(tmp_path / "in")
    out = tmp_path / "out"
    kwargs = {"image_size": 16, "channels": channels, "workers": workers}
    report = prepare_here("folder", tmp_path / "in", out=out, **kwargs)
    assert (report.sizes, report.skipped) == ({"train": 24}, ())
    source, rows = read(out, "train", 2, 16, channels)
    assert source.label_names == ("cat", "dog")
    np.testing.assert_array_equal(rows["label"], np.repeat([0, 1], 12))
    for n, image in enumerate(shown):
        np.testing.assert_array_equal(rows["image"][n], fit(image, 16, channels), str(n))


def test_bad_files_are_skipped_listed_and_counted(tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    shown = write_pictures(folder)
    whole = pictures()["a colour.png"][0]
    (folder / "cat" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "dog" / "text.jpg").write_text("no picture")
    (folder / "dog" / "empty.png").touch()
    (folder / "dog" / ".hidden.jpg").write_text("not looked at")
    (folder / "dog" / "notes.txt").write_text("not looked at")
    asked = ["folder", folder, "--name=mine", "--image_size=8", "--out", out]
    code, text, err = run(*asked)
    assert code == 0, err
    assert text.startswith(f"{out}: train 24\n")
    assert f"Skipped 3 files, listed in {out / 'skipped.txt'}\n" in text
    assert "1 with .txt" in text
    assert "1 hidden" in text
    listed = dict(line.split(": ", 1) for line in (out / "skipped.txt").read_text().splitlines())
    assert sorted(listed) == ["cat/cut.png", "dog/empty.png", "dog/text.jpg"]
    assert "truncated" in listed["cat/cut.png"]
    assert "cannot identify image file 'text.jpg'" in listed["dog/text.jpg"]
    _, rows = read(out, "train", 2, 8, 3)
    np.testing.assert_array_equal(rows["image"], [fit(image, 8, 3) for image in shown])
    assert run(*asked)[1].splitlines()[1:] == text.splitlines()[1:]


def test_a_folder_without_a_good_picture_is_refused(tmp_path):
    (tmp_path / "in" / "cat").mkdir(parents=True)
    kwargs = {"image_size": 8, "out": tmp_path / "out"}
    with pytest.raises(UserError, match="holds no files, and no pictures"):
        prepare_here("folder", tmp_path / "in", **kwargs)
    (tmp_path / "in" / "cat" / "notes.txt").touch()
    with pytest.raises(UserError, match="files that end in .txt, and no pictures"):
        prepare_here("folder", tmp_path / "in", **kwargs)
    assert not (tmp_path / "out").exists()
    (tmp_path / "in" / "cat" / "a.jpg").touch()
    with pytest.raises(UserError, match=r"None of the 1 images of the split train .*skipped\.txt"):
        prepare_here("folder", tmp_path / "in", **kwargs)
    with pytest.raises(UserError, match="was not finished"):
        read(tmp_path / "out", "train", 0)


def tell_apart(folder, names):
    """Grey pictures, each of another value; returns the values by name."""
    values = {name: n + 1 for n, name in enumerate(names)}
    for name, value in values.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), value, np.uint8)).save(folder / name)
    return values


def test_class_folders_are_text_and_files_need_not_be(tmp_path):
    tell_apart(tmp_path / "in", ["a/1.png", "a/2.png", "b/3.png"])
    (tmp_path / "in" / "a" / "2.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/in/a/\xff.png"))
    out = tmp_path / "out"
    assert prepare_here("folder", tmp_path / "in", image_size=8, out=out).sizes == {"train": 3}
    (tmp_path / "in" / "b").rename(os.fsdecode(os.fsencode(tmp_path) + b"/in/b\xff"))
    with pytest.raises(UserError, match="UTF-8"):
        prepare_here("folder", tmp_path / "in", image_size=8, out=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_images_of_each_class_are_counted(tmp_path, small_shards):
    names = ["train/a/1.png", "train/b/2.png", "train/b/3.png", "test/c/4.png", "test/a/5.png"]
    tell_apart(tmp_path / "in", names)
    (tmp_path / "in" / "train" / "b" / "3.png").write_text("no picture")
    kwargs = {"image_size": 8, "channels": 1, "out": tmp_path / "out"}
    report = prepare_here("folder", tmp_path / "in", **kwargs)
    assert report.classes == ("a", "b", "c")
    assert report.counts == {"train": [1, 1, 0], "test": [1, 0, 1]}
    again = prepare_here("folder", tmp_path / "in", **kwargs)
    assert (again.was_there, again.counts) == (True, report.counts)
    lines = "\n".join(described(again, tmp_path / "out"))
    assert "Classes without images in the split train: c\n" in lines
    assert "data.num_classes = 3" in lines
    # Values 1 and 2 of 255, so 1/127.5 apart; and all sides are 8.
    assert f"data_std = {0.5 / 127.5:.4f}" in lines
    assert "data.image_size = 8\n" in lines
    assert read(tmp_path / "out", "train", 3)[0].empty == (2,)


def test_links_to_class_folders_are_followed(tmp_path):
    values = tell_apart(tmp_path / "elsewhere", ["1.png", "2.png"])
    tell_apart(tmp_path / "in", ["a/3.png"])
    (tmp_path / "in" / "b").symlink_to(tmp_path / "elsewhere")
    prepare_here("folder", tmp_path / "in", image_size=8, channels=1, out=tmp_path / "out")
    source, rows = read(tmp_path / "out", "train", 2)
    assert source.label_names == ("a", "b")
    assert rows["image"][1:, 0, 0, 0].tolist() == list(values.values())


def test_folders_named_as_splits_are_splits(tmp_path):
    names = ["train/b/1.png", "train/a/x/2.png", "val/b/3.png", "validation/b/4.png"]
    values = tell_apart(tmp_path / "in", names)
    kwargs = {"image_size": 8, "channels": 1, "out": tmp_path / "out"}
    tell_apart(tmp_path / "mixed", ["train/a/1.png", "test/2.png"])
    with pytest.raises(UserError, match="--layout=splits.*--layout=classes"):
        prepare_here("folder", tmp_path / "mixed", **kwargs)
    with pytest.raises(UserError, match="has the splits train, val, validation: leave it out"):
        prepare_here("folder", tmp_path / "in", **kwargs, held_out=0.5)
    prepare_here("folder", tmp_path / "in", **kwargs)
    expected = {"train": [names[1], names[0]], "val": names[2:3], "validation": names[3:]}
    for split, files in expected.items():
        source, rows = read(tmp_path / "out", split, 2)
        assert source.label_names == ("a", "b")
        assert rows["image"][:, 0, 0, 0].tolist() == [values[name] for name in files]
        assert rows["label"].tolist() == [int("/b/" in name) for name in files]


@pytest.mark.parametrize("share", [0.1, 0.25, 0.3])
def test_the_same_share_of_each_class_is_held_out(tmp_path, share):
    names = [f"{c}/{n:02d}.png" for c, count in (("a", 40), ("b", 20)) for n in range(count)]
    values = tell_apart(tmp_path / "in", names)
    kwargs = {"image_size": 8, "channels": 1, "held_out": share}
    sizes = prepare_here("folder", tmp_path / "in", **kwargs, out=tmp_path / "out").sizes
    assert sizes["test"] == pytest.approx(60 * share, abs=1e-6)
    seen = []
    for split in ("train", "test"):
        rows = read(tmp_path / "out", split, 2)[1]
        seen += rows["image"][:, 0, 0, 0].tolist()
        counts = np.bincount(rows["label"])
        assert counts[0] == 2 * counts[1]
    assert sorted(seen) == sorted(values.values())


def test_pictures_without_class_folders_have_no_labels(tmp_path):
    tell_apart(tmp_path / "in", ["1.png", "2.png"])
    prepare_here("folder", tmp_path / "in", image_size=8, out=tmp_path / "out")
    assert len(read(tmp_path / "out", "train", 0)[0]) == 2
    tell_apart(tmp_path / "in", ["a/3.png"])
    with pytest.raises(UserError, match=r"holds the picture 1\.png beside class folders"):
        prepare_here("folder", tmp_path / "in", image_size=8, out=tmp_path / "other")
    with pytest.raises(UserError, match="--out .* is in"):
        prepare_here("folder", tmp_path / "in", image_size=8, out=tmp_path / "in" / "out")


@pytest.mark.parametrize("kind", ["npz", "folder"])
def test_what_was_stopped_continues_and_gives_the_same(tmp_path, files, small_shards, kind):
    sources, _ = files
    options = {}
    if kind == "folder":
        write_pictures(tmp_path / "in")
        (tmp_path / "in" / "cat" / "bad.jpg").touch()  # in the first shard
        sources, options = [tmp_path / "in"], {"image_size": 8, "held_out": 0.25}
    prepare_here(kind, *sources, **options, out=tmp_path / "whole")
    out, serializer, written = tmp_path / "out", prepared._serializer, []

    def stopping(dataset):
        def serialize(*item):
            written.append(item)
            if len(written) == 9:
                raise KeyboardInterrupt
            return serializer(dataset)(*item)

        return serialize

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepared, "_serializer", stopping)
        with pytest.raises(KeyboardInterrupt):
            prepare_here(kind, *sources, **options, out=out)
    before = {name: value for name, value in contents(out).items() if name.startswith("mine")}
    assert len(before) == 2
    with pytest.raises(UserError, match="was not finished: repeat its command"):
        read(out, "train", 0)
    prepare_here(kind, *sources, **options, out=out)
    assert before.items() <= contents(out).items()
    assert data_bytes(out) == data_bytes(tmp_path / "whole")


def test_a_killed_program_continues(tmp_path):
    images = noise(10_000, 8, 8)
    path = save(tmp_path / "train.npz", images=images)
    prepare_here("npz", path, out=tmp_path / "whole")
    out = tmp_path / "out"
    process = command("npz", path, "--name=mine", "--out", out)
    end = time.monotonic() + 60
    while not (out / "mine-train.array_record-00001-of-00010").exists():
        assert time.monotonic() < end
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (out / "dataset_info.json").exists()
    code, text, _ = run("npz", path, "--name=mine", "--out", out)
    assert (code, text.splitlines()[0]) == (0, f"{out}: train 10,000")
    assert data_bytes(out) == data_bytes(tmp_path / "whole")


def test_a_damaged_shard_is_written_anew(tmp_path, files, small_shards):
    paths, _ = files
    out = tmp_path / "out"

    def stopping(*_):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepared, "_write_info", stopping)
        with pytest.raises(KeyboardInterrupt):
            prepare_here("npz", *paths, out=out)
    shard = out / "mine-train.array_record-00001-of-00003"
    shard.write_bytes(b"")
    prepare_here("npz", *paths, out=out)
    prepare_here("npz", *paths, out=tmp_path / "whole")
    assert data_bytes(out) == data_bytes(tmp_path / "whole")


def test_another_request_is_refused_and_changes_nothing(tmp_path, files):
    paths, arrays = files
    out = tmp_path / "out"
    prepare_here("npz", *paths, out=out)
    before = contents(out)
    with pytest.raises(UserError, match="of another request, with another image_size: choose"):
        prepare_here("npz", *paths, out=out, image_size=16)
    with pytest.raises(UserError, match="another name, channels"):
        prepare_here("npz", *paths, out=out, name="yours", channels=3)
    with pytest.raises(UserError, match="another sources"):
        prepare_here("npz", paths[0], out=out)
    save(paths[0], **{**arrays["train"], "images": noise(10, 8, 8, 1, seed=7)}, class_names=NAMES)
    with pytest.raises(UserError, match="another sources"):
        prepare_here("npz", *paths, out=out)
    assert contents(out) == before
    (out / "request.json").write_text("[")
    with pytest.raises(UserError, match=r"request\.json is not JSON"):
        prepare_here("npz", *paths, out=out)
    with pytest.raises(UserError, match="nothing is overwritten"):
        prepare_here("npz", *paths, out=tmp_path)


def test_what_the_disk_refuses_is_said_in_a_sentence(tmp_path, files):
    paths, _ = files
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        prepare_here("npz", *paths, out=tmp_path / "file")
    code, _, err = run(
        *["npz", *paths, "--name=mine", "--out", tmp_path / "out"],
        before=["sh", "-c", 'ulimit -f 64; exec "$0" "$@"'],  # half kilobytes a file
    )
    assert code == 1
    assert "cannot be written" in err.splitlines()[-1]
    assert "Traceback" not in err
    assert run("npz", *paths, "--name=mine", "--out", tmp_path / "out")[0] == 0


def adm_crop(picture, size):
    """As the reference writes it."""
    while min(*picture.size) >= 2 * size:
        picture = picture.resize(tuple(x // 2 for x in picture.size), resample=Image.BOX)
    scale = size / min(*picture.size)
    shape = tuple(round(x * scale) for x in picture.size)
    array = np.array(picture.resize(shape, resample=Image.BICUBIC))
    y, x = (array.shape[0] - size) // 2, (array.shape[1] - size) // 2
    return array[y : y + size, x : x + size]


# A folder with fashion_mnist/test.npz (`images`, `labels`, `class_names`) and caltech12.tar
# (caltech12/CLASS/*.jpg of any sizes).
REAL = os.environ.get("JAXDIFF_TEST_DATA", "")
real = pytest.mark.skipif(not REAL, reason="JAXDIFF_TEST_DATA names no folder of real data")


@real
def test_fashion_mnist(tmp_path):
    path = pathlib.Path(REAL) / "fashion_mnist" / "test.npz"
    prepare_here("npz", path, out=tmp_path / "out")
    source, rows = read(tmp_path / "out", "test", 10, size=28)
    with np.load(path) as arrays:
        assert source.label_names == tuple(arrays["class_names"])
        np.testing.assert_array_equal(rows["image"], arrays["images"])
        np.testing.assert_array_equal(rows["label"], arrays["labels"])


@real
def test_photographs(tmp_path):
    with tarfile.open(pathlib.Path(REAL) / "caltech12.tar") as tar:
        names = sorted(name for name in tar.getnames() if name.endswith(".jpg"))[::25]
        tar.extractall(tmp_path, [tar.getmember(name) for name in names], filter="data")
    prepare_here("folder", tmp_path / "caltech12", image_size=64, out=tmp_path / "out")
    source, rows = read(tmp_path / "out", "train", 12, 64, 3)
    for name, image, label in zip(names, rows["image"], rows["label"], strict=True):
        assert source.label_names[label] == name.split("/")[1]
        picture = Image.open(tmp_path / name).convert("RGB")
        np.testing.assert_array_equal(image, adm_crop(picture, 64), name)
    assert json.loads((tmp_path / "out" / "request.json").read_text())["sources"][0] == len(names)
