"""Datasets in npz files: images, and with them labels, names of classes, and other conditions."""

import functools
import zipfile

from jaxdiff import files
from jaxdiff.arrays import load_npz
from jaxdiff.data.dataset import check_classes, from_arrays
from jaxdiff.errors import UserError

# The first of each that a file has: as people call them, and as sample.py does.
IMAGES, LABELS = ("images", "arr_0"), ("labels", "arr_1")


def open_files(paths, image_size=None, channels=None, conditions=None):
    """A dataset of which each npz file is a split, named by the file.

    A file holds `images`, uint8 [N, H, W, C] or [N, H, W] with C 1 or 3; if wanted `labels`,
    integers [N] from 0 on; and if wanted `class_names`, text for each class. The names `arr_0` and
    `arr_1`, for images and labels, do as well. One file's arrays are held in memory at a time.

    Args:
      paths: of the files, such as train.npz and test.npz.
      image_size, channels: see `jaxdiff.data.dataset.from_arrays`.
      conditions: {condition's name: name of its array}, of vectors and images.

    Returns:
      A `jaxdiff.data.dataset.Dataset`, whose examples are in the order of the files.

    Raises:
      UserError: if a file is missing or corrupt, lacks an array, or does not belong to the others.
    """
    conditions = conditions or {}
    loaders, names, sources = {}, [], {}
    load = functools.lru_cache(maxsize=1)(lambda path: _load(path, conditions))
    for path in paths:
        split = path.name.removesuffix(".npz")
        if split in loaders:
            raise UserError(f"Two files are called {path.name}, and so their splits: rename one.")
        loaders[split] = functools.partial(lambda path: load(path)[0], path)
        names.append(load(path)[1])
        sources[path.name] = _checksums(path)
        load.cache_clear()
    if any(each != names[0] for each in names):
        raise UserError("The files hold other `class_names`: they must be the same in all.")
    request = {
        "kind": "npz",
        "image_size": image_size,
        "channels": channels,
        "conditions": conditions,
        "sources": sources,
    }
    return from_arrays(loaders, names[0], request, image_size, channels)


def _load(path, conditions):
    """({"x", "cond"}, names of the classes) of a file."""
    arrays = load_npz(path)
    wanted = [*conditions.values(), _first(arrays, IMAGES) or "images"]
    if missing := [name for name in wanted if name not in arrays]:
        raise UserError(
            f"{path} holds {', '.join(arrays) or 'nothing'}, and no {missing[0]}: images are "
            "called `images`, and other arrays as they are named on the command line."
        )
    label = _first(arrays, LABELS)
    cond = {"label": arrays[label]} if label else {}
    cond |= {condition: arrays[name] for condition, name in conditions.items()}
    names = tuple(
        name.decode() if isinstance(name, bytes) else str(name)
        for name in (arrays["class_names"].ravel().tolist() if "class_names" in arrays else ())
    )
    check_classes(names, path)
    return {"x": arrays[wanted[-1]], "cond": cond}, names


def _first(arrays, names):
    return next((name for name in names if name in arrays), None)


def _checksums(path):
    """{array: [bytes, CRC-32]}, as the file has them."""
    with files.opened(path) as file, zipfile.ZipFile(file) as archive:
        return {info.filename: [info.file_size, info.CRC] for info in archive.infolist()}
