"""Datasets in npz files: images, and with them labels, names of classes, and other conditions."""

import functools
import zipfile

from jaxdiff import files
from jaxdiff.arrays import load_npz
from jaxdiff.data.dataset import check_classes, from_arrays
from jaxdiff.errors import UserError

# The first of each that a file has: as people call them, and as sample.py does.
IMAGES, LABELS = ("images", "arr_0"), ("labels", "arr_1")


def open_files(paths, image_size=None, channels=None, conditions=None, encoding="png"):
    """A dataset of which each npz file is a split, named by the file.

    A file holds `images`, uint8 [N, H, W, C] or [N, H, W] with C 1 or 3; if wanted `labels`,
    integers [N] from 0 on; and if wanted `class_names`, text for each class. The names `arr_0` and
    `arr_1`, for images and labels, do as well. One file's arrays are held in memory at a time.

    Args:
      paths: of the files, such as train.npz and test.npz.
      image_size, channels, encoding: see `jaxdiff.data.dataset.from_arrays`.
      conditions: {condition's name: name of its array}, of vectors and images.

    Returns:
      A `jaxdiff.data.dataset.Dataset`, whose examples are in the order of the files.

    Raises:
      UserError: if a file is missing or corrupt, lacks an array, or does not belong to the others.
    """
    conditions = conditions or {}
    loaders, names, sources = {}, [], {}
    for path in paths:
        split = path.name.removesuffix(".npz")
        if split in loaders:
            raise UserError(f"Two files are called {path.name}, and so their splits: rename one.")
        checksums = read_checksums(path)
        loaders[split] = functools.partial(_load, path, {**_keys(path, checksums), **conditions})
        names.append(class_names(path) if "class_names" in checksums else ())
        sources[path.name] = checksums
    if any(each != names[0] for each in names):
        raise UserError("The files hold different `class_names`: they must be the same in all.")
    request = {
        "kind": "npz",
        "image_size": image_size,
        "channels": channels,
        "conditions": conditions,
        "encoding": encoding,
        "sources": sources,
    }
    return from_arrays(loaders, names[0], request, image_size, channels, encoding)


def read_checksums(path):
    """{array: [bytes, CRC-32]}, as the file has them."""
    load_npz(path, ())  # a UserError if it is no npz file
    with files.opened(path) as file, zipfile.ZipFile(file) as archive:
        return {i.filename.removesuffix(".npy"): [i.file_size, i.CRC] for i in archive.infolist()}


def _keys(path, held):
    """{"x": array of images, "label": array of labels, if any}."""
    images, labels = ([name for name in names if name in held] for names in (IMAGES, LABELS))
    if not images:
        raise UserError(
            f"{path} holds {', '.join(held) or 'nothing'}, and no images: give an array `images`."
        )
    return {"x": images[0], **({"label": labels[0]} if labels else {})}


def class_names(path):
    """The names in a file's array `class_names`.

    Raises:
      UserError: for names that a dataset cannot have.
    """
    names = load_npz(path, ["class_names"])["class_names"].ravel().tolist()
    names = tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names)
    check_classes(names, path)
    return names


def _load(path, keys):
    """{"x", "cond"} of a file, whose arrays are called as `keys` says."""
    arrays = load_npz(path, keys.values())
    cond = {name: arrays[key] for name, key in keys.items() if name != "x"}
    return {"x": arrays[keys["x"]], "cond": cond}
