"""Sources that are not ImageNet, or not the whole of it: what is refused, in which words."""

import io
import tarfile

import numpy as np
import pytest

from jaxdiff.data import ilsvrc, imagenet
from jaxdiff.errors import UserError
from tests.data import ilsvrc as synthetic
from tests.data.preparing import prepare_here

SIZE = 32


@pytest.fixture(scope="module")
def pictures():
    return synthetic.make(classes=2)


@pytest.fixture(scope="module")
def made(pictures, tmp_path_factory):
    """A folder with the archives."""
    folder = tmp_path_factory.mktemp("ilsvrc") / "tar"
    synthetic.archives(pictures, folder)
    return folder


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


def without_devkit(folder):
    (folder / synthetic.DEVKIT).unlink()


def not_a_tar(folder):
    (folder / synthetic.TRAIN).write_bytes(b"<html>Forbidden</html>" * 1000)


def cut_in_a_class(folder):
    cut(folder / synthetic.TRAIN, 30_000)


def cut_between_classes(folder):
    # The first member, whole, and nothing that ends the archive.
    with tarfile.open(folder / synthetic.TRAIN) as archive:
        end = archive.getmembers()[1].offset
    cut(folder / synthetic.TRAIN, end)


def cut_devkit(folder):
    cut(folder / synthetic.DEVKIT, 5_000)


def cut_within(folder):
    """An inner archive ends early, though the outer one does not."""
    with tarfile.open(folder / synthetic.TRAIN) as archive:
        inner = {m.name: archive.extractfile(m).read() for m in archive.getmembers()}
    inner["n01440764.tar"] = inner["n01440764.tar"][:2048]
    (folder / synthetic.TRAIN).write_bytes(synthetic.tar(inner))


def an_inner_page(folder):
    inner = {"n01440764.tar": b"<html>" * 1000}
    (folder / synthetic.TRAIN).write_bytes(synthetic.tar(inner))


def a_sparse_file(folder):
    picture = tarfile.TarInfo("n01440764_1.JPEG")
    picture.size, picture.pax_headers = 4, {"GNU.sparse.map": "1000,4"}
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(picture, io.BytesIO(b"data"))
    inner = {"n01440764.tar": file.getvalue()}
    (folder / synthetic.TRAIN).write_bytes(synthetic.tar(inner))


def a_changed_devkit(folder):
    content = bytearray((folder / synthetic.DEVKIT).read_bytes())
    content[40:80] = bytes(40)
    (folder / synthetic.DEVKIT).write_bytes(content)


def no_pictures(folder):
    (folder / synthetic.VAL).unlink()
    (folder / synthetic.TRAIN).write_bytes(synthetic.tar({"n01440764.tar": synthetic.tar({})}))


def other_inner_names(folder):
    (folder / synthetic.TRAIN).write_bytes(synthetic.tar({"cats.tar": synthetic.tar({})}))


def a_class_outside(folder):
    data = f"ILSVRC2012_devkit_t12/{ilsvrc.TRUTH}"
    contents = {data: b"1\n1001\n"}
    with tarfile.open(folder / synthetic.DEVKIT) as archive:
        name = next(name for name in archive.getnames() if name.endswith("meta.mat"))
        contents[name] = archive.extractfile(name).read()
    (folder / synthetic.DEVKIT).write_bytes(synthetic.tar(contents, "w:gz"))


def more_pictures(folder):
    (folder / synthetic.VAL).write_bytes(synthetic.tar({"ILSVRC2012_val_00000099.JPEG": b""}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without_devkit, "does not say the classes .* ILSVRC2012_devkit_t12"),
        (not_a_tar, "img_train.tar is no tar archive"),
        (cut_in_a_class, "img_train.tar is not whole"),
        (cut_between_classes, "img_train.tar is not whole"),
        (cut_devkit, "devkit_t12.tar.gz is not the development kit"),
        (a_changed_devkit, "devkit_t12.tar.gz is not the development kit"),
        (a_sparse_file, "n01440764.tar in .*n01440764_1.JPEG in it is a sparse file"),
        (cut_within, "n01440764.tar in .*img_train.tar is not whole"),
        (an_inner_page, "n01440764.tar in .*img_train.tar is no tar archive"),
        (no_pictures, "holds no picture"),
        (other_inner_names, "holds cats.tar"),
        (a_class_outside, "in line 2 the class 1001"),
        (more_pictures, "val_00000099.JPEG, whose class"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_archives_that_are_not_right(made, tmp_path, change, words):
    folder = tmp_path / "in"
    folder.mkdir()
    for path in made.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    change(folder)
    with pytest.raises(UserError, match=words):
        prepare_here("imagenet", folder, out=tmp_path / "out", image_size=SIZE, workers=0)
    assert not any("array_record" in path.name for path in tmp_path.rglob("*"))


def test_folders_that_are_not_right(pictures, made, tmp_path):
    def refused(*sources, match, **values):
        with pytest.raises(UserError, match=match):
            prepare_here("imagenet", *sources, out=tmp_path / "out", **{"workers": 0, **values})

    folder = synthetic.class_folders(pictures, tmp_path / "in")
    refused(folder, match="--image_size is missing")
    refused(folder, match="--channels is not for ImageNet", channels=1, image_size=SIZE)
    refused(folder, made, match="are both the split train", image_size=SIZE)
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", match="holds nothing of ImageNet", image_size=SIZE)
    refused(tmp_path / "nowhere", match="nowhere does not exist", image_size=SIZE)
    refused(made / synthetic.DEVKIT, match="no pictures", image_size=SIZE)
    (folder / "train" / synthetic.WNIDS[0]).rename(folder / "train" / "tench")
    refused(folder, match="tench, which is no wnid", image_size=SIZE)
    assert not (tmp_path / "out").exists()


def test_npz_files_that_are_not_right(tmp_path):
    def refused(match, name="train_data_batch_1", size=8, labels=(1, 1000), **values):
        data = np.zeros((2, 3 * size * size), np.uint8)
        np.savez(tmp_path / f"{name}.npz", data=data, labels=np.array(labels))
        asked = {"out": tmp_path / "out", "workers": 0, **values}
        with pytest.raises(UserError, match=match):
            prepare_here("imagenet", tmp_path / f"{name}.npz", **asked)

    refused("pictures of 32x32, and --image_size is 64", size=32, image_size=64)
    refused("has the label 0", labels=(0, 999))
    refused("has the label 1001", labels=(1, 1001))
    refused("has not the name", name="train")
    refused(r"holds data uint8 \[2, 192\], labels int64 \[1\]", labels=(1,))
    assert not (tmp_path / "out").exists()


def test_a_disk_that_is_too_small(made, tmp_path, monkeypatch):
    monkeypatch.setattr(imagenet.files, "room", lambda path: (1000, path))
    with pytest.raises(UserError, match=r"GB are free there: make room"):
        prepare_here("imagenet", made, out=tmp_path / "out", image_size=SIZE, workers=0)
