"""Datasets in npz files: images, and with them labels and the names of classes."""

import dataclasses
import functools
import lzma
import math
import pathlib
import struct
import zipfile
import zlib

import numpy as np

from jaxdiff.data.dataset import Dataset, Split, check_classes, png
from jaxdiff.data.images import convert, fit, free_memory
from jaxdiff.errors import UserError

# The first of each that a file has: as people call them, and as sample.py does.
IMAGES, LABELS = ("images", "arr_0"), ("labels", "arr_1")
LONGEST_HEADER = 2**17  # bytes of an array's file before its values
# What zipfile, zlib and NumPy make of files that are damaged, encrypted or packed in other ways.
DAMAGES = (
    *(OSError, EOFError, ValueError, KeyError, TypeError, RuntimeError, MemoryError, OverflowError),
    *(zipfile.BadZipFile, zlib.error, struct.error, lzma.LZMAError),
)


def open_files(paths, image_size=None, channels=None):
    """A dataset of which each npz file is a split, named by the file.

    A file holds `images`, uint8 [N, H, W, C] or [N, H, W] with C 1 or 3; if wanted `labels`,
    integers [N] from 0 on; and if wanted `class_names`, text for each class. The names `arr_0` and
    `arr_1`, for images and labels, do as well. One file's images are held in memory at a time.

    Args:
      paths: of the files, such as train.npz and test.npz.
      image_size: what images are cropped and resized to; None: they stay as they are.
      channels: 1 or 3, what they are converted to; None: as they are.

    Returns:
      A `jaxdiff.data.dataset.Dataset`, whose examples are in the order of the files.

    Raises:
      UserError: if a file is missing or damaged, holds no such arrays, or does not belong to the
        others.
    """
    files = [_inspect(pathlib.Path(path)) for path in paths]
    _check_together(files, image_size)
    height, width, depth = files[0].shape
    shape = (image_size or height, image_size or width, channels or depth)
    request = {
        "kind": "npz",
        "image_size": image_size,
        "channels": channels,
        "sources": {file.path.name: file.checksums for file in files},
    }
    splits = (
        Split(file.path.stem, file.size, functools.partial(_read, file, image_size, shape[2]))
        for file in files
    )
    return Dataset(tuple(splits), shape, _classes(files), request)


@dataclasses.dataclass(frozen=True, eq=False)
class _File:
    """What a file holds, found without reading its images.

    Attributes:
      path, key: the file, and its array of images.
      size, shape: number of images, and their (height, width, channels).
      labels: [N] integers, or None.
      names: of the classes, or None.
      checksums: {array: [bytes, CRC-32]}, as the file has them.
    """

    path: pathlib.Path
    key: str
    size: int
    shape: tuple[int, int, int]
    labels: np.ndarray | None
    names: tuple[str, ...] | None
    checksums: dict


def _inspect(path):
    try:
        with zipfile.ZipFile(path) as archive:
            check_sizes(path, archive)
            with np.load(path) as arrays:
                return _inspect_arrays(path, archive, arrays)
    except UserError:
        raise
    except DAMAGES as error:
        raise _unreadable(path, error) from None


def _inspect_arrays(path, archive, arrays):
    image_key, label_key = (
        next((k for k in keys if k in arrays), None) for keys in (IMAGES, LABELS)
    )
    if image_key is None:
        held = ", ".join(arrays) or "nothing"
        raise UserError(f"{path} holds {held}, and no `images`: give uint8 images [N, H, W, C].")
    size, *shape = _image_shape(path, archive, image_key)
    labels = None
    if label_key is not None:
        label_shape, dtype = _header(archive, label_key)
        labels = arrays[label_key] if dtype.kind in "iu" and label_shape == (size,) else None
        if labels is None or labels.min() < 0:
            raise UserError(
                f"{path} holds `{label_key}` of {dtype} {list(label_shape)} and {size} images: "
                f"labels must be integers [{size}] from 0 on."
            )
    names = _names(path, archive, arrays) if "class_names" in arrays else None
    checksums = {info.filename: [info.file_size, info.CRC] for info in archive.infolist()}
    return _File(path, image_key, size, tuple(shape), labels, names, checksums)


def _image_shape(path, archive, key):
    """[N, H, W, C] of the images, from their header."""
    shape, dtype = _header(archive, key)
    full = (*shape, 1) if len(shape) == 3 else shape
    if dtype != np.uint8 or len(full) != 4 or full[3] not in (1, 3) or not all(full):
        raise UserError(
            f"{path} holds `{key}` of {dtype} {list(shape)}: images must be uint8 [N, H, W] or "
            "[N, H, W, C], with C 1 or 3, and at least one."
        )
    return full


def _names(path, archive, arrays):
    """Names of the classes."""
    _, dtype = _header(archive, "class_names")
    if dtype.hasobject:
        raise UserError(
            f"{path} holds `class_names` as Python objects: save them as text, as "
            "np.array(names, dtype=str)."
        )
    names = arrays["class_names"].reshape(-1).tolist()
    names = tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names)
    check_classes(names, path)
    return names


def check_sizes(path, archive):
    """Finds arrays that are smaller than they say, or too large for memory, before they are read.

    Args:
      path: of an npz file.
      archive: the same as an open ZipFile.

    Raises:
      UserError: if there is one.
    """
    free = free_memory()
    for info in archive.infolist():
        if not info.filename.endswith(".npy"):
            continue
        key = info.filename.removesuffix(".npy")
        shape, dtype = _header(archive, key)
        size = math.prod(shape) * dtype.itemsize
        fits = min(shape, default=0) >= 0 and size <= info.file_size <= size + LONGEST_HEADER
        if not dtype.hasobject and not fits:
            raise UserError(
                f"{path} holds `{key}` of {dtype} {list(shape)}, which is {size:,} bytes, in "
                f"{info.file_size:,} bytes: it is damaged; save it again."
            )
        if size > free:
            raise UserError(
                f"{path} holds `{key}` of {size:,} bytes, and {free:,} bytes of memory are free: "
                "cut it into smaller files."
            )


def _header(archive, key):
    """(shape, dtype) of an array, without reading it."""
    header = np.lib.format
    with archive.open(f"{key}.npy") as file:
        version = header.read_magic(file)
        read = header.read_array_header_1_0 if version == (1, 0) else header.read_array_header_2_0
        shape, _, dtype = read(file)
    return shape, dtype


def _unreadable(path, error):
    reason = getattr(error, "strerror", None) or "it is not a whole npz file"
    return UserError(f"{path} cannot be read ({reason}): give an npz file of images.")


def _check_together(files, image_size):
    """Raises UserError unless the files can be splits of one dataset."""
    first = files[0]
    for file in files[1:]:
        if file.path.stem in [other.path.stem for other in files if other is not file]:
            raise UserError(
                f"Two files are called {file.path.name}, which is the split that a file becomes: "
                "rename one."
            )
        if not image_size and file.shape != first.shape:
            raise UserError(
                f"{first.path} holds images of {first.shape} and {file.path} of {file.shape}: give "
                "--image_size, which makes them alike."
            )
        if (file.labels is None) != (first.labels is None):
            raise UserError(
                f"One of {first.path} and {file.path} holds labels and the other none: splits of a "
                "dataset have labels all or none of them; add or remove them."
            )
        if file.names != first.names:
            raise UserError(
                f"{first.path} and {file.path} hold other `class_names`: they must be the same."
            )


def _classes(files):
    """Names of the classes; their numbers, if the files have none."""
    labelled = [file for file in files if file.labels is not None]
    if not labelled:
        return ()
    names = files[0].names
    if names is None:
        return _numbers(labelled)
    for file in labelled:
        if file.labels.max() >= len(names):
            raise UserError(
                f"{file.path} holds the label {file.labels.max()} and {len(names)} `class_names`: "
                "give a name for each class."
            )
    return names


def _numbers(files):
    """Classes that are called as they are numbered, in files with labels."""
    last = max(files, key=lambda file: file.labels.max())
    largest, images = int(last.labels.max()), sum(file.size for file in files)
    if largest >= images:
        raise UserError(
            f"{last.path} holds the label {largest}, which makes {largest + 1} classes of {images} "
            "images: mend the labels, or give `class_names`."
        )
    return tuple(map(str, range(largest + 1)))


@functools.lru_cache(maxsize=1)
def _images(file):
    _images.cache_clear()  # else two files' images would be in memory while this one's are read
    try:
        with np.load(file.path) as arrays:
            return arrays[file.key].reshape(file.size, *file.shape)
    except DAMAGES as error:
        raise _unreadable(file.path, error) from None


def _read(file, image_size, channels, start, stop):
    """The examples of a file in [start, stop), as a `Split` reads them."""
    for number in range(start, stop):
        image = _images(file)[number]
        image = fit(image, image_size, channels) if image_size else convert(image, channels)
        yield png(image), 0 if file.labels is None else int(file.labels[number])
