"""Datasets of a user's own arrays: what is written, what is refused, and what a stop leaves."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from jaxdiff.config import DataConfig, Image, Label, Vector
from jaxdiff.data import prepared
from jaxdiff.data.images import fit
from jaxdiff.data.prepared import prepare_arrays
from jaxdiff.data.source import open_split
from jaxdiff.errors import UserError
from tests.conftest import ROOT
from tests.data.preparing import contents, encoded, noise, prepare_here, read, save
from tests.disk import small_files

NAMES = ("T-shirt/top", "Ankle boot", "ß")


def command(*arguments, path=ROOT):
    return subprocess.Popen(
        [sys.executable, "-m", "jaxdiff.data.prepare", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(prepared, "SHARD_SIZE", 4)


@pytest.fixture
def files(tmp_path):
    """train.npz and test.npz, and what is in them."""
    arrays = {
        split: {"images": noise(size, 8, 8, 1, seed=size), "labels": np.arange(size) % 3}
        for split, size in (("train", 10), ("test", 5))
    }
    return [save(tmp_path / f"{s}.npz", **arrays[s], class_names=NAMES) for s in arrays], arrays


def test_npz_files_come_back_through_the_command_line(tmp_path, files):
    paths, arrays = files
    # TensorFlow, were it there, must not be imported.
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "tensorflow.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')")
    out = tmp_path / "out"
    asked = ["npz", *paths, "--name", "mine", "--out", out]
    process = command(*asked, path=os.pathsep.join([str(tmp_path / "path"), str(ROOT)]))
    text, err = process.communicate(timeout=120)
    assert (process.returncode, text.splitlines()[0]) == (0, f"{out}: train 10, test 5"), err
    # The lines for a config are Python.
    data, conditions = text.split("For a config:\n")[1].splitlines()[:2]
    data = eval(data.split("data=")[1], {"DataConfig": DataConfig})
    assert conditions.strip() == "model=UNetConfig(conditions=(Label(3),))"
    assert not (tmp_path / "imported").exists()
    for split, expected in arrays.items():
        source = open_split(data, split, (Label(3),))
        assert source.class_names == NAMES
        np.testing.assert_array_equal(source.all()["x"], expected["images"])
        np.testing.assert_array_equal(source.all()["cond"]["label"], expected["labels"])
    before = contents(out)
    assert not any(name.startswith(".") for name in before)
    assert prepare_here("npz", *paths, out=out).was_there
    assert contents(out) == before


@pytest.mark.parametrize("encoding", ["png", "raw"])
def test_vectors_and_images_become_conditions(tmp_path, small_shards, encoding):
    arrays = {
        "images": noise(6, 8, 8, 1),
        "labels": np.arange(6) % 2,
        "thumbnails": np.random.default_rng(0).normal(size=(6, 2, 2)),
        "age": np.arange(6).reshape(6, 1),
        "edges": noise(6, 8, 8, seed=1),
        "small": noise(6, 3, 4, 3, seed=2),
    }
    prepare_here(
        "npz",
        save(tmp_path / "train.npz", **arrays),
        out=tmp_path / "out",
        vector=("thumbnails", "age=age"),
        condition_image=("edges", "small=place"),
        encoding=encoding,
    )
    conditions = (Vector(4), Image(1), Label(2), Vector(1, "age"), Image(3, "place"))
    source, rows = read(tmp_path / "out", "train", conditions)
    expected = {
        "vector": arrays["thumbnails"].reshape(6, 4),
        "image": arrays["edges"][..., None] / 127.5 - 1,
        "label": arrays["labels"],
        "age": arrays["age"],
        "place": arrays["small"] / 127.5 - 1,
    }
    assert rows["cond"].keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(rows["cond"][name], value, atol=1e-6)
        assert rows["cond"][name].dtype == (np.int32 if name == "label" else np.float32)
    # Only what is named is read, and a copy in memory holds the same.
    assert read(tmp_path / "out", "train", conditions[:1])[1]["cond"].keys() == {"vector"}
    held = source.in_memory().fetch([4, 2])["cond"]
    for name in expected:
        np.testing.assert_array_equal(held[name], rows["cond"][name][[4, 2]])


@pytest.mark.parametrize("channels", [1, 3])
def test_other_keys_shapes_and_colours(tmp_path, small_shards, channels):
    images, edges = noise(6, 5, 9, 3), noise(6, 5, 9, 1, seed=1)
    path = save(
        tmp_path / "train.npz", arr_0=images, arr_1=np.array([2, 0, 1, 1, 0, 2]), edges=edges
    )
    expected = np.stack([fit(image, 5, channels) for image in images])
    for name, values in (("kept", {}), ("fitted", {"image_size": 5, "channels": channels})):
        prepare_here("npz", path, out=tmp_path / name, condition_image=("edges",), **values)
        conditions = (Label(3), Image(1))
        source, rows = read(tmp_path / name, "train", conditions, size=5, channels=channels)
        assert source.class_names == ("0", "1", "2")
        np.testing.assert_array_equal(rows["x"], expected)
        # What is as large as the image is cropped with it.
        fitted = np.stack([fit(image, 5, 1) for image in edges])
        np.testing.assert_allclose(rows["cond"]["image"], fitted / 127.5 - 1, atol=1e-6)


def test_arrays_in_memory_are_prepared_once(tmp_path):
    train = {"x": noise(7, 8, 8, 1), "cond": {"label": np.arange(7) % 2, "vector": np.ones((7, 3))}}
    splits = {"train": train, "test": train}
    folder = prepare_arrays(tmp_path / "mine", splits, class_names=("even", "odd"))
    before = contents(tmp_path / "mine")
    assert prepare_arrays(folder, splits, class_names=("even", "odd")) == folder
    assert contents(tmp_path / "mine") == before
    source, rows = read(folder, "test", (Label(2), Vector(3)))
    assert source.class_names == ("even", "odd")
    np.testing.assert_array_equal(rows["x"], train["x"])
    other = {**train, "cond": {**train["cond"], "vector": np.zeros((7, 3))}}
    with pytest.raises(UserError, match="sources"):
        prepare_arrays(folder, {**splits, "train": other}, class_names=("even", "odd"))
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "file").touch()
    with pytest.raises(UserError, match=str(tmp_path / "theirs")):
        prepare_arrays(tmp_path / "theirs", splits)


def test_a_dataset_in_a_bucket_is_read_from_a_copy(bucket):
    images = noise(7, 8, 8, 1)
    folder = prepare_arrays(bucket / "data" / "mine", {"train": {"x": images, "cond": {}}})
    np.testing.assert_array_equal(read(folder)[1]["x"], images)


def test_a_config_pads_small_images(tmp_path):
    images = noise(3, 28, 28)
    path = save(tmp_path / "train.npz", images=images, edges=images)
    prepare_here("npz", path, out=tmp_path / "out", condition_image=("edges",))
    data = DataConfig(name=str(tmp_path / "out"), image_size=32, channels=1, fit="pad")
    rows = open_split(data, "train", (Image(1),)).all()
    expected = np.pad(images, ((0, 0), (2, 2), (2, 2)))[..., None]
    np.testing.assert_array_equal(rows["x"], expected)
    np.testing.assert_allclose(rows["cond"]["image"], expected / 127.5 - 1, atol=1e-6)


GOOD = {"images": noise(3, 8, 8, 1), "labels": np.arange(3)}


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"pixels": noise(3)}, "holds pixels, and no images"),
        ({"images": noise(3, 8, 8, 1) / 255}, r"float64 \[3, 8, 8, 1\]"),
        ({"images": noise(3, 8, 8, 4)}, "C 1 or 3"),
        ({"images": noise(0, 8, 8, 1)}, "at least one"),
        ({**GOOD, "labels": np.arange(4)}, r"label .*integers \[3\]"),
        ({**GOOD, "labels": np.arange(3) - 1}, "from 0 on"),
        ({**GOOD, "labels": np.arange(3) / 2}, "float64"),
        ({**GOOD, "labels": np.array([0, 1, None])}, "train.npz"),
        ({**GOOD, "labels": np.array([0, 1, 3])}, "label 3"),
        ({**GOOD, "class_names": ["a", "b"]}, "label 2, but 2"),
        ({**GOOD, "class_names": ["a", "b", "b"]}, "class named 'b'"),
        ({**GOOD, "class_names": ["a", "b", ""]}, "class named ''"),
        ({**GOOD, "vector": np.full((3, 2), np.nan)}, "vector .*finite"),
        ({**GOOD, "vector": np.ones((2, 2))}, r"vector .*\[3, size\]"),
        ({**GOOD, "vector": noise(3, 8, 8, 2)}, "vector"),
    ],
)
def test_npz_files_that_cannot_be_used_are_refused(tmp_path, arrays, words):
    path = save(tmp_path / "train.npz", **arrays)
    with pytest.raises(UserError, match=words):
        prepare_here(
            *("npz", path), out=tmp_path / "out", vector=("vector",) if "vector" in arrays else ()
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"name": "a" * 5000}, "name"),
        ({"name": "Mine-1"}, "Mine-1"),
        ({"out": "gs://bucket/data"}, "gs://bucket/data"),
        ({"layout": "splits"}, "--layout"),
        ({"vector": ("missing",)}, "missing"),
        ({"vector": ("a", "b")}, "vector"),
        ({"vector": ("a=c",), "condition_image": ("b=c",)}, "condition c"),
        ({"condition_image": ("maps=x",)}, "condition x"),
        ({"condition_image": ("maps=condition_image",)}, "condition_image"),
        ({"vector": ("a=label",)}, "label"),
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
    rows = read(tmp_path / "out", "train", (Label(2001),))[1]
    assert rows["cond"]["label"].tolist() == [0, 1, 2000]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"images": noise(3, 9, 8, 1), "labels": np.arange(3)}, "--image_size"),
        ({"images": noise(3, 8, 8, 1)}, "train and test"),
        ({**GOOD, "class_names": ["c", "b", "a"]}, "class_names"),
    ],
)
def test_splits_that_do_not_belong_together_are_refused(tmp_path, other, words):
    paths = [save(tmp_path / "train.npz", **GOOD), save(tmp_path / "test.npz", **other)]
    with pytest.raises(UserError, match=words):
        prepare_here("npz", *paths, out=tmp_path / "out")


def test_corrupt_files_and_names_of_splits_are_refused(tmp_path, files):
    (path, _), _ = files
    out = tmp_path / "out"
    cut = tmp_path / "cut.npz"
    cut.write_bytes(path.read_bytes()[:-100])
    for bad in (cut, tmp_path, tmp_path / "missing.npz"):
        with pytest.raises(UserError, match=str(bad)):
            prepare_here("npz", bad, out=out)
    with pytest.raises(UserError, match="train-1"):
        prepare_here("npz", path.rename(tmp_path / "train-1.npz"), out=out)
    (tmp_path / "elsewhere").mkdir()
    twin = save(tmp_path / "elsewhere" / "train-1.npz", **GOOD)
    with pytest.raises(UserError, match=r"train-1\.npz"):
        prepare_here("npz", tmp_path / "train-1.npz", twin, out=out)
    assert not out.exists()


def write_folder(folder, count):
    for number in range(count):
        for name in ("cat", "dog"):
            (folder / name).mkdir(parents=True, exist_ok=True)
            (folder / name / f"{number}.png").write_bytes(encoded(noise(9, 12, 3, seed=number)))
    (folder / "cat" / "bad.jpg").touch()


@pytest.mark.parametrize("kind", ["npz", "folder"])
def test_what_was_stopped_continues_and_gives_the_same(
    tmp_path, files, small_shards, monkeypatch, kind
):
    sources, options = files[0], {}
    if kind == "folder":
        write_folder(tmp_path / "in", 12)
        sources, options = [tmp_path / "in"], {"image_size": 8, "held_out": 0.25}
    prepare_here(kind, *sources, **options, out=tmp_path / "whole")
    out, serializer, written = tmp_path / "out", prepared._serializer, []

    def stopping(dataset):
        def serialize(item):
            written.append(item)
            if len(written) == 9:
                raise KeyboardInterrupt
            return serializer(dataset)(item)

        return serialize

    with monkeypatch.context() as patch:
        patch.setattr(prepared, "_serializer", stopping)
        with pytest.raises(KeyboardInterrupt):
            prepare_here(kind, *sources, **options, out=out)
    before = {path: path.stat().st_mtime_ns for path in out.glob("mine*")}
    assert len(before) == 2
    with pytest.raises(UserError, match="repeat its command"):
        read(out)
    prepare_here(kind, *sources, **options, out=out)
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert contents(out) == contents(tmp_path / "whole")


def test_a_killed_program_continues(tmp_path):
    path = save(tmp_path / "train.npz", images=noise(10_000, 8, 8))
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
    assert prepare_here("npz", path, out=out).sizes == {"train": 10_000}
    assert contents(out) == contents(tmp_path / "whole")


def test_another_request_is_refused_and_changes_nothing(tmp_path, files):
    paths, arrays = files
    out = tmp_path / "out"
    prepare_here("npz", *paths, out=out)
    before = contents(out)
    with pytest.raises(UserError, match="image_size"):
        prepare_here("npz", *paths, out=out, image_size=16)
    with pytest.raises(UserError, match="name, channels"):
        prepare_here("npz", *paths, out=out, name="yours", channels=3)
    with pytest.raises(UserError, match="sources"):
        prepare_here("npz", paths[0], out=out)
    save(paths[0], **{**arrays["train"], "images": noise(10, 8, 8, 1, seed=7)}, class_names=NAMES)
    with pytest.raises(UserError, match="sources"):
        prepare_here("npz", *paths, out=out)
    assert contents(out) == before
    (out / "request.json").write_text("[")
    with pytest.raises(UserError, match=r"request\.json"):
        prepare_here("npz", *paths, out=out)
    with pytest.raises(UserError, match="nothing is overwritten"):
        prepare_here("npz", *paths, out=tmp_path)


def test_what_the_disk_refuses_is_a_sentence(tmp_path, files):
    paths, _ = files
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=str(tmp_path / "file")):
        prepare_here("npz", *paths, out=tmp_path / "file")
    out = tmp_path / "out"
    with small_files(2**15), pytest.raises(UserError, match="cannot be written"):
        prepare_here("npz", *paths, out=out)
    assert prepare_here("npz", *paths, out=out).sizes == {"train": 10, "test": 5}


def test_mistakes_end_in_a_sentence(tmp_path):
    for arguments, words in (
        (["zip", "a.zip", "--out=o", "--name=n"], "zip"),
        (["npz", "a.npz", "--out=o"], "--name"),
    ):
        process = command(*arguments)
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err.count("\n")) == (1, 1), err
        assert err.startswith("prepare.py: "), err
        assert words in err


# A folder with fashion_mnist/test.npz (`images`, `labels`, `class_names`).
REAL = os.environ.get("JAXDIFF_TEST_DATA", "")


@pytest.mark.skipif(not REAL, reason="JAXDIFF_TEST_DATA names no folder of real data")
def test_fashion_mnist(tmp_path):
    path = pathlib.Path(REAL) / "fashion_mnist" / "test.npz"
    prepare_here("npz", path, out=tmp_path / "out")
    source, rows = read(tmp_path / "out", "test", (Label(10),), size=28)
    with np.load(path) as arrays:
        assert source.class_names == tuple(arrays["class_names"])
        np.testing.assert_array_equal(rows["x"], arrays["images"].reshape(rows["x"].shape))
        np.testing.assert_array_equal(rows["cond"]["label"], arrays["labels"])
