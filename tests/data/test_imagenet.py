"""ImageNet from its archives, folders and npz files, against tarfile and Pillow by hand."""

import io
import signal
import tarfile
import time

import numpy as np
import pytest
from etils import epath
from PIL import Image as Picture

from jaxdiff.config import Label
from jaxdiff.data import archives, ilsvrc, imagenet, prepared
from jaxdiff.data.prepare import Preparation, described, prepare
from jaxdiff.errors import UserError
from tests.data import ilsvrc as synthetic
from tests.data.preparing import contents, prepare_here, read
from tests.data.test_folders import adm_crop
from tests.data.test_prepare import command

SIZE = 32
# The classes of `synthetic.make()`, as every list of sorted wnids orders them.
CLASSES = ("n01440764", "n01443537", "n02100735", "n02119789")


def odd_pictures():
    """{name: bytes} of what is among ImageNet's files: CMYK, grey, a PNG, turned by EXIF, short."""
    random = np.random.default_rng(3)
    image = Picture.open(io.BytesIO(synthetic.jpeg(random, np.array([90, 150, 60]))))
    exif = Picture.Exif()
    exif[0x0112] = 6
    wnid = CLASSES[0]
    return {
        f"{wnid}_1.JPEG": synthetic.encoded(image.convert("CMYK")),
        f"{wnid}_2.JPEG": synthetic.encoded(image.convert("L")),
        f"{wnid}_4.JPEG": synthetic.encoded(image, "png"),
        f"{wnid}_5.JPEG": synthetic.encoded(image, exif=exif),
        f"{wnid}_6.JPEG": synthetic.encoded(image)[:500],
    }


@pytest.fixture(scope="module")
def pictures():
    made = synthetic.make()
    made.train[CLASSES[0]].update(odd_pictures())
    return made


@pytest.fixture(scope="module")
def made(pictures, tmp_path_factory):
    """A folder with the archives."""
    folder = tmp_path_factory.mktemp("ilsvrc") / "tar"
    synthetic.archives(pictures, folder)
    return folder


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(prepared, "SHARD_SIZE", 4)


def by_hand(content):
    """A picture as ADM prepares it."""
    return adm_crop(Picture.open(io.BytesIO(content)).convert("RGB"), SIZE)


def expected(folder):
    """{split: (images, labels)} of archives, by tarfile and Pillow."""
    images, labels = [], []
    with tarfile.open(folder / synthetic.TRAIN) as outer:
        for inner in sorted(outer.getmembers(), key=lambda member: member.name):
            with tarfile.open(fileobj=outer.extractfile(inner)) as archive:
                for member in sorted(archive.getmembers(), key=lambda member: member.name):
                    if member.name == f"{CLASSES[0]}_6.JPEG":
                        continue
                    images.append(by_hand(archive.extractfile(member).read()))
                    labels.append(CLASSES.index(inner.name.removesuffix(".tar")))
    result = {"train": (np.stack(images), labels)}
    with tarfile.open(folder / synthetic.VAL) as archive:
        held = {m.name: by_hand(archive.extractfile(m).read()) for m in archive.getmembers()}
    with tarfile.open(folder / synthetic.DEVKIT) as archive:
        name = next(name for name in archive.getnames() if name.endswith("ground_truth.txt"))
        truth = list(map(int, archive.extractfile(name).read().split()))
    wnids = {number: wnid for wnid, number in synthetic.numbers().items()}
    images = [held[f"ILSVRC2012_val_{n:08d}.JPEG"] for n in range(1, len(truth) + 1)]
    result["validation"] = (np.stack(images), [CLASSES.index(wnids[n]) for n in truth])
    return result


def check(out, wanted):
    for split, (images, labels) in wanted.items():
        source, rows = read(out, split, (Label(4),), SIZE, 3)
        assert source.class_names == CLASSES
        np.testing.assert_array_equal(rows["x"], images)
        assert rows["cond"]["label"].tolist() == labels


@pytest.mark.parametrize("encoding", ["png", "raw"])
def test_archives(made, tmp_path, small_shards, encoding, capsys):
    out = tmp_path / "out"
    values = Preparation(image_size=SIZE, out=str(out), encoding=encoding, workers=0)
    dataset, report = prepare("imagenet", [made], values)
    check(out, expected(made))
    assert (report.sizes, report.skipped) == ({"train": 28, "validation": 8}, 1)
    assert (out / "skipped.txt").read_text().startswith(f"{CLASSES[0]}_6.JPEG: ")
    lines = (out / "synset_words.txt").read_text().splitlines()
    assert lines == [f"{wnid} {synthetic.words(wnid)}" for wnid in CLASSES]
    assert not (out / ".progress").exists()
    begun = capsys.readouterr().out
    assert "train: 29 pictures of 4 classes, 6 to 11 a class, and ILSVRC2012 has 1,281,167" in begun
    assert "GB that are free" in begun
    said = "\n".join(described(dataset, report, out))
    assert "Label(4)" in said
    assert "held_out='validation'" in said
    # TFDS, without anything of ours, reads the same bytes.
    import tensorflow_datasets as tfds

    rows = tfds.builder_from_directory(str(out)).as_data_source(split="validation")
    np.testing.assert_array_equal(rows[0]["image"], expected(made)["validation"][0][0])


@pytest.mark.parametrize("layout", ["class_folders", "kaggle", "flat", "one by one"])
def test_other_layouts_make_the_same(pictures, made, tmp_path, layout):
    if layout == "one by one":
        sources = [made / name for name in (synthetic.DEVKIT, synthetic.VAL, synthetic.TRAIN)]
    elif layout == "flat":
        folder = synthetic.class_folders(pictures, tmp_path / "in")
        for path in sorted((folder / "val").glob("*/*")):
            path.rename(folder / "val" / path.name)
        for path in (folder / "val").glob("n*"):
            path.rmdir()
        sources = [folder, made / synthetic.DEVKIT]
    else:
        sources = [getattr(synthetic, layout)(pictures, tmp_path / "in")]
    out = tmp_path / "out"
    prepare_here("imagenet", *sources, out=out, image_size=SIZE, workers=0)
    if layout == "class_folders":  # whose pictures of validation are sorted by class
        wanted = expected(made)
        places = np.argsort(wanted["validation"][1], kind="stable")
        images, labels = wanted["validation"]
        wanted["validation"] = images[places], np.array(labels)[places].tolist()
        check(out, wanted)
    else:
        check(out, expected(made))
    assert (out / "synset_words.txt").exists() == (layout != "class_folders")


def test_a_folder_of_pictures_makes_the_same(pictures, tmp_path):
    upright = synthetic.Pictures({w: dict(each) for w, each in pictures.train.items()}, [])
    del upright.train[CLASSES[0]][f"{CLASSES[0]}_5.JPEG"]  # which `folder` turns
    folder = synthetic.class_folders(upright, tmp_path / "in")
    for kind in ("imagenet", "folder"):
        prepare_here(kind, folder / "train", out=tmp_path / kind, image_size=SIZE, name="mine")
    shard = "mine-train.array_record-00000-of-00001"
    files = [contents(tmp_path / kind) for kind in ("imagenet", "folder")]
    assert files[0][shard] == files[1][shard]


def test_classes_that_train_does_not_have_are_left_out_of_validation(pictures, tmp_path):
    few = synthetic.Pictures({w: pictures.train[w] for w in CLASSES[1:3]}, pictures.val)
    paths = synthetic.archives(few, tmp_path / "in")
    values = Preparation(image_size=SIZE, out=str(tmp_path / "out"), workers=0)
    dataset, report = prepare("imagenet", paths, values)
    assert dataset.classes == CLASSES[1:3]
    assert report.sizes == {"train": 12, "validation": 4}
    assert any("Left out" in note and note.endswith(": 4.") for note in dataset.notes)
    fifth = synthetic.WNIDS[4]
    none = synthetic.Pictures({fifth: synthetic.make(classes=5).train[fifth]}, pictures.val)
    paths = synthetic.archives(none, tmp_path / "in")
    report = prepare_here("imagenet", *paths, out=tmp_path / "other", image_size=SIZE, workers=0)
    assert report.sizes == {"train": 6}


def test_an_interrupted_preparation_continues(made, tmp_path, small_shards, monkeypatch):
    settings = {"image_size": SIZE, "workers": 0}
    prepare_here("imagenet", made, out=tmp_path / "whole", **settings)
    whole, out = contents(tmp_path / "whole"), tmp_path / "out"
    fit, calls, searched = imagenet.fit, [], []

    def stopping(*args):
        calls.append(args)
        if len(calls) % 11 == 0:
            raise KeyboardInterrupt
        return fit(*args)

    def counted(path, start, stop, name):
        searched.append(str(name))
        return members(path, start, stop, name)

    members = archives._members
    monkeypatch.setattr(imagenet, "fit", stopping)
    monkeypatch.setattr(archives, "_members", counted)
    for _ in range(20):
        try:
            prepare_here("imagenet", made, out=out, **settings)
            break
        except KeyboardInterrupt:
            assert not (out / "dataset_info.json").exists()
    assert len(calls) > 36  # it was interrupted
    assert contents(out) == whole
    # What is in the inner archives was found out once.
    assert sum(".tar in" in name for name in searched) == len(CLASSES)
    with pytest.raises(UserError, match="image_size"):
        prepare_here("imagenet", made, out=out, image_size=16)
    assert contents(out) == whole


def test_what_was_found_in_an_archive_is_not_used_for_another(tmp_path):
    held = {f"n0000000{n}.tar": synthetic.tar({f"{n}.JPEG": b"%d" % n}) for n in range(2)}
    path, found = epath.Path(tmp_path) / "train.tar", []
    for order in (held, dict(reversed(held.items()))):
        path.write_bytes(synthetic.tar(order))
        outer = archives.members(path).sorted()
        found.append(archives.inner(path, outer, cache=epath.Path(tmp_path))[0])
        content = [path.read_bytes()[n : n + 1] for n in found[-1].offsets]
        assert content == [b"0", b"1"]
    assert found[0].names.tolist() == found[1].names.tolist()


def test_two_processes_change_no_byte(made, tmp_path):
    for workers in (0, 2):
        out = tmp_path / str(workers)
        prepare_here("imagenet", made, out=out, image_size=SIZE, workers=workers)
    assert contents(tmp_path / "2") == contents(tmp_path / "0")


@pytest.mark.slow  # programs start, and read pictures of a few shards
def test_killed_programs_continue_and_leave_no_process(tmp_path):
    many = synthetic.make(classes=2, train=1100, val=1, sides=(90, 200))
    source, out = tmp_path / "in", tmp_path / "out"
    synthetic.archives(many, source)
    prepare_here("imagenet", source, out=tmp_path / "whole", image_size=SIZE, workers=0)
    asked = ("imagenet", source, "--name=mine", f"--image_size={SIZE}", "--workers=2", "--out", out)
    end = time.monotonic() + 300
    for waited in (".progress", "mine-train.array_record-00000-of-00003", "summary.json"):
        process = command(*asked)
        while not (out / waited).exists() and process.poll() is None:
            assert time.monotonic() < end
            time.sleep(0.001)
        workers = children(process.pid) if process.poll() is None else []
        process.send_signal(signal.SIGKILL)
        process.communicate()
        while any(map(is_running, workers)):
            assert time.monotonic() < end
            time.sleep(0.01)
    process = command(*asked)
    text, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert f"{out}: train 2,200, validation 2" in text
    assert contents(out) == contents(tmp_path / "whole")


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return list(map(int, file.read().split()))


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().split()[2] != "Z"
    except FileNotFoundError:
        return False


# Npz files of downsampled pictures.


@pytest.mark.parametrize("listed", [False, True])
def test_npz_files_are_numbered_by_sorted_wnids(pictures, tmp_path, small_shards, listed):
    paths = synthetic.npz_files(synthetic.make(), tmp_path / "in", batches=3, size=SIZE)
    if listed:
        lines = [f"{wnid} {number} kit_fox\n" for wnid, number in synthetic.numbers().items()]
        paths.append(tmp_path / "map_clsloc.txt")
        paths[-1].write_text("".join(lines))
    out = tmp_path / "out"
    prepare_here("imagenet", *paths, out=out, workers=0, encoding="raw")
    wnids = sorted(synthetic.numbers())
    for split, files in (("train", paths[:3]), ("validation", paths[3:4])):
        source, rows = read(out, split, (Label(1000),), SIZE, 3)
        assert list(source.class_names) == wnids
        arrays = [dict(np.load(path)) for path in files]
        data = np.concatenate([each["data"] for each in arrays]).reshape(-1, 3, SIZE, SIZE)
        np.testing.assert_array_equal(rows["x"], np.moveaxis(data, 1, -1))
        named = [wnids[label] for label in rows["cond"]["label"]]
        numbers = np.concatenate([each["labels"] for each in arrays]).tolist()
        assert [synthetic.numbers()[wnid] for wnid in named] == numbers
    assert (out / "synset_words.txt").exists() == listed


def test_the_order_of_the_classes_is_the_known_one():
    # Kit fox, English setter, Siberian husky; 278, 212 and 250 in torchvision's and ADM's order.
    assert ilsvrc.order(synthetic.numbers())[1:4].tolist() == [278, 212, 250]


def test_what_is_said_of_the_whole_set():
    kit = ilsvrc.Kit({"a": 1, "b": 2, "c": 3}, counts={"a": 3, "b": 2})
    counts = np.full(1000, 1300)
    counts[1:105] = 1124
    counts[1:40] += 1
    counts[0] = 732
    labels = np.repeat(np.arange(1000), counts)
    assert (len(labels), counts.min(), counts.max()) == (1_281_167, 732, 1300)
    names = [str(n) for n in range(1000)]
    (said,) = ilsvrc.findings("train", labels, names, kit)
    assert said == (
        "train: 1,281,167 pictures of 1,000 classes, 732 to 1,300 a class, as ILSVRC2012 has."
    )
    said, missing, short = ilsvrc.findings("train", np.array([0, 0, 1, 1]), ["a", "b"], kit)
    assert "4 pictures of 2 classes" in said
    assert "subset" in said
    assert missing.endswith("missing: c.")
    assert "a (2 of 3)" in short
    assert "b (" not in short
