"""Datasets in folders of pictures, a folder for each class."""

import contextlib
import functools
import hashlib
import multiprocessing
import os
import pathlib
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

from jaxdiff.data import layout as layout_lib
from jaxdiff.data.dataset import Dataset, Skipped, Split, check_classes, png
from jaxdiff.data.images import fit
from jaxdiff.data.pictures import decode, find_whites
from jaxdiff.errors import UserError


def open_folder(folder, image_size, channels=3, held_out=0.0, layout=None, bits=None, mapped=map):
    """A dataset of the pictures in FOLDER/CLASS/, in FOLDER/SPLIT/CLASS/, or in FOLDER itself.

    `jaxdiff.data.layout.splits` says which of these a folder is. What has no splits is `train`, of
    which `held_out` is put aside as `test`. Classes are numbered in the order of their sorted
    names, pictures in the order of theirs. Pictures in FOLDER (or SPLIT) itself have no labels.

    Args:
      folder: that folder.
      image_size: what pictures are cropped and resized to, see `jaxdiff.data.images.fit`.
      channels: 1 or 3, what they are converted to.
      held_out: share of each class that becomes the split `test`, in [0, 1): with .1, the 10th,
        20th, ... picture.
      layout: `classes` or `splits`, what the folders are; None: found.
      bits: that pictures of more than 8 use, see `jaxdiff.data.pictures.Whites`; None: found.
      mapped: (function, paths) -> results in order; such as `pool` yields.

    Returns:
      A `jaxdiff.data.dataset.Dataset`.

    Raises:
      UserError: if there is no such folder, or it holds no pictures in such an order.
    """
    root = pathlib.Path(folder)
    found, left = layout_lib.find(root)
    splits = _held_out(root, layout_lib.splits(root, found, left, layout), held_out)
    everything = [picture for pictures in splits.values() for picture in pictures]
    classes = _classes(root, everything)
    numbers = {name: number for number, name in enumerate(classes)}

    @functools.cache
    def encoder():  # at the first shard that is to be written
        whites = find_whites(bits, [str(root / picture.path) for picture in everything], mapped)
        return functools.partial(encoded, image_size=image_size, channels=channels, whites=whites)

    def read(pictures, start, stop):
        chosen = pictures[start:stop]
        results = mapped(encoder(), [str(root / picture.path) for picture in chosen])
        for picture, (image, reason) in zip(chosen, results, strict=True):
            if image is None:
                yield Skipped(picture.path, reason)
            else:
                yield image, numbers.get(picture.folder, 0)

    request = {
        "kind": "folder",
        "image_size": image_size,
        "channels": channels,
        "held_out": held_out,
        "sources": [len(everything), _checksum(everything)],
        # Left out where they are not given, as datasets of earlier versions do not have them.
        **{name: value for name, value in (("layout", layout), ("bits", bits)) if value},
    }
    parts = tuple(
        Split(name, len(pictures), functools.partial(read, pictures))
        for name, pictures in splits.items()
    )
    shape = (image_size, image_size, channels)
    return Dataset(parts, shape, classes, request, left.sentences())


def _classes(root, pictures):
    """Names of the classes, sorted; none if pictures are in no class folders."""
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


def encoded(path, image_size, channels, whites=None):
    """A picture brought to a size: (the bytes of a PNG file, None), or (None, why not)."""
    try:
        return png(fit(decode(path, whites), image_size, channels)), None
    except Exception as error:  # the decoders of a dozen formats raise what they like
        text = str(error).replace(str(path), os.path.basename(path))
        return None, " ".join(text.split()) or type(error).__name__


def _held_out(root, splits, share):
    """{split: pictures} with a share of `train` as `test`, of every class as nearly as can be."""
    if not share:
        return splits
    if list(splits) != ["train"]:
        raise UserError(
            f"--held_out is {share}, but {root} has the splits {', '.join(splits)}: leave it out."
        )
    result, seen = {"train": [], "test": []}, Counter()
    for picture in splits["train"]:
        before = seen[picture.folder]
        seen[picture.folder] += 1
        is_test = int((before + 1) * share) > int(before * share)
        result["test" if is_test else "train"].append(picture)
    for name, chosen in result.items():
        if not chosen:
            raise UserError(
                f"--held_out is {share}, which leaves the split {name} of "
                f"{len(splits['train'])} pictures empty: choose another share."
            )
    return result
