"""Datasets in folders of pictures, a folder for each class."""

import contextlib
import dataclasses
import functools
import hashlib
import multiprocessing
import os
import pathlib
import stat
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from PIL import Image, ImageOps

from jaxdiff.data.images import fit
from jaxdiff.data.prepared import Dataset, Skipped, Split, check_classes, png
from jaxdiff.errors import UserError

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
SPLITS = ("train", "test", "val", "validation")  # folders of these names are splits, not classes
GREY = ("1", "L", "LA", "La")  # Pillow's modes


@dataclasses.dataclass(frozen=True)
class Picture:
    """A file: its path below the folder, its size in bytes, and the class that it is in."""

    path: str
    size: int
    folder: str


def open_folder(folder, image_size, channels=3, held_out=0.0, mapped=map):
    """A dataset of the pictures in FOLDER/CLASS/, in FOLDER/SPLIT/CLASS/, or in FOLDER itself.

    If every folder in FOLDER is called train, test, val or validation, these are the splits.
    Otherwise all is `train`, of which `held_out` is put aside as `test`. Classes are numbered in
    the order of their sorted names, pictures in the order of theirs. Pictures that lie in FOLDER
    (or SPLIT) itself have no labels. Hidden files and those with other endings are ignored.

    Args:
      folder: that folder.
      image_size: what pictures are cropped and resized to, see `jaxdiff.data.images.fit`.
      channels: 1 or 3, what they are converted to.
      held_out: share of each class that becomes the split `test`, in [0, 1): with .1, the 10th,
        20th, ... picture.
      mapped: (function, paths) -> results in order; such as `pool` yields.

    Returns:
      A `jaxdiff.data.prepared.Dataset`.

    Raises:
      UserError: if there is no such folder, or it holds no pictures in such an order.
    """
    root = pathlib.Path(folder)
    splits = _splits(root, held_out)
    everything = [picture for pictures in splits.values() for picture in pictures]
    classes = _classes(root, everything)
    encode = functools.partial(encoded, image_size=image_size, channels=channels)

    def read(pictures, start, stop):
        chosen = pictures[start:stop]
        results = mapped(encode, [str(root / picture.path) for picture in chosen])
        for picture, (image, reason) in zip(chosen, results, strict=True):
            if image is None:
                yield Skipped(picture.path, reason)
            else:
                yield image, classes.index(picture.folder) if classes else 0

    request = {
        "kind": "folder",
        "image_size": image_size,
        "channels": channels,
        "held_out": held_out,
        "sources": [len(everything), _checksum(everything)],
    }
    parts = (
        Split(name, len(pictures), functools.partial(read, pictures))
        for name, pictures in splits.items()
    )
    return Dataset(tuple(parts), (image_size, image_size, channels), classes, request)


def _classes(root, pictures):
    """Names of the classes, sorted; none if pictures lie in no class folders."""
    names = tuple(sorted({picture.folder for picture in pictures}))
    if names == ("",):
        return ()
    if "" in names:
        raise UserError(
            f"{root} has a split with class folders and one without: give all or none of them some."
        )
    check_classes(names, root)
    return names


def _checksum(pictures):
    """Of the pictures' names and sizes, in their order."""
    listing = "".join(f"{picture.path}\0{picture.size}\n" for picture in pictures)
    return hashlib.sha256(listing.encode(errors="surrogateescape")).hexdigest()


@contextlib.contextmanager
def pool(workers):
    """Yields a `map` that runs in so many processes; in this one, for 0."""
    if not workers:
        yield map
        return
    # Spawned, as a fork would copy this process's threads half.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as executor:
        yield functools.partial(executor.map, chunksize=8)


def encoded(path, image_size, channels):
    """A picture brought to a size: (the bytes of a PNG file, None), or (None, why not)."""
    try:
        return png(fit(decode(path), image_size, channels)), None
    except Exception as error:  # the decoders of a dozen formats raise what they like
        text = str(error).replace(str(path), os.path.basename(path))
        return None, " ".join(text.split()) or type(error).__name__


def decode(path):
    """A picture (the first, of a file of several) as people see it.

    It is turned as its EXIF data say. Transparency is dropped, as ADM does, and 16 bits become 8.

    Returns:
      uint8 [H, W, 1] for grey modes, else [H, W, 3].

    Raises:
      Exception: whatever Pillow raises for what is not a whole picture.
    """
    with warnings.catch_warnings(), Image.open(path) as file:
        warnings.simplefilter("ignore")  # notes on odd files, amid the progress bar
        picture = ImageOps.exif_transpose(file)
        if picture.mode == "F":
            raise ValueError("its values are floats, of no known range")
        if picture.mode.startswith("I"):
            return _sixteen_bits(np.asarray(picture))
        if picture.mode in GREY:
            return np.asarray(picture.convert("L"))[..., None]
        if "transparency" in picture.info:
            picture = picture.convert("RGBA")
        return np.asarray(picture.convert("RGB"))


def _sixteen_bits(values):
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("its values have more than 16 bits")
    # 65535 / 255 = 257. Pillow would clip them at 255.
    return np.round(values / 257).astype(np.uint8)[..., None]


def _splits(root, held_out):
    """{split: its pictures}."""
    try:
        below = sorted(p.name for p in root.iterdir() if p.is_dir() and p.name[0] != ".")
    except OSError as error:
        raise UserError(
            f"The folder {root} cannot be read ({error.strerror}): give a folder of class folders."
        ) from None
    if not below or not set(below) <= set(SPLITS):
        pictures = _pictures(root, root)
        if not held_out:
            return {"train": pictures}
        return _held_out(pictures, held_out)
    if held_out:
        raise UserError(
            f"--held_out is {held_out}, but {root} has the splits {', '.join(below)}: leave it out."
        )
    return {name: _pictures(root, root / name) for name in below}


def _files(folder, above=()):
    """Paths of all files under a folder but hidden ones, links followed.

    A link to a folder that it lies in, as `above` knows them, has no end, and is left out.
    """
    here = os.path.realpath(folder)
    if here in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _files(entry.path, (*above, here))
            else:
                yield pathlib.Path(entry.path)


def _pictures(root, folder):
    """All pictures of a folder of class folders, sorted by class and name."""
    try:
        found, others = _find(root, folder)
    except OSError as error:
        raise UserError(
            f"{error.filename} cannot be read ({error.strerror}): make it readable, or move it "
            f"out of {root}."
        ) from None
    if not found:
        held = f"files that end in {', '.join(sorted(others))}" if others else "no files"
        raise UserError(
            f"{folder} holds {held}, and no pictures ({', '.join(ENDINGS)}): give a folder of "
            "class folders."
        )
    found.sort(key=lambda picture: (picture.folder, picture.path))
    if not found[0].folder and found[-1].folder:
        raise UserError(
            f"{folder} holds the picture {os.path.basename(found[0].path)} beside class folders: "
            "move it into one."
        )
    return found


def _find(root, folder):
    """(pictures, endings of other files); OSError if what may be a class cannot be looked at."""
    found, others = [], set()
    for path in sorted(_files(folder)):
        is_picture = path.suffix.lower() in ENDINGS
        try:
            status = path.stat()
        except FileNotFoundError:
            if not is_picture:  # a link to nothing, and perhaps to what was a class folder
                raise
            size = 0  # it is skipped, and counted, when it is to be read
        else:
            size = status.st_size
            is_picture = is_picture and stat.S_ISREG(status.st_mode)
        if not is_picture:
            others.add(path.suffix or "nothing")
            continue
        inside = path.relative_to(folder)
        name = inside.parts[0] if len(inside.parts) > 1 else ""
        found.append(Picture(path.relative_to(root).as_posix(), size, name))
    return found, others


def _held_out(pictures, share):
    """Splits `train` and `test`, with the same share of every class as nearly as can be."""
    splits, seen = {"train": [], "test": []}, Counter()
    for picture in pictures:
        before = seen[picture.folder]
        seen[picture.folder] += 1
        is_test = int((before + 1) * share) > int(before * share)
        splits["test" if is_test else "train"].append(picture)
    for name, chosen in splits.items():
        if not chosen:
            raise UserError(
                f"--held_out is {share}, which leaves the split {name} of {len(pictures)} pictures "
                "empty: choose another share."
            )
    return splits
