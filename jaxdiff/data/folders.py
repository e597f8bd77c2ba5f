"""Datasets in folders of pictures, a folder for each class."""

import contextlib
import functools
import hashlib
import multiprocessing
import os
import signal
import threading
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

from PIL import UnidentifiedImageError

from jaxdiff.data import layout as layout_lib
from jaxdiff.data.dataset import Dataset, Skipped, Split, check_classes, feature_of, stored
from jaxdiff.data.images import fit
from jaxdiff.data.pictures import decode, find_whites
from jaxdiff.errors import UserError


def open_folder(folder, values, conditions=None, mapped=map):
    """A dataset of the pictures in FOLDER/CLASS/, in FOLDER/SPLIT/CLASS/, or in FOLDER itself.

    `jaxdiff.data.layout.splits` says which of these a folder is. What has no splits is `train`, of
    which `held_out` is put aside as `test`: with .1, the 10th, 20th, ... picture of each class.
    Classes are numbered in the order of their sorted names, pictures in the order of theirs.
    Pictures in FOLDER (or SPLIT) itself have no labels.

    Args:
      folder: that folder.
      values: a `jaxdiff.data.prepare.Preparation`.
      conditions: {condition's name: folder of pictures with the same names, but for their endings}.
      mapped: (function, items) -> results in order; such as `pool` yields.

    Returns:
      A `jaxdiff.data.dataset.Dataset`.

    Raises:
      UserError: if there is no such folder, it holds no pictures in such an order, or a picture
        lacks its condition's.
    """
    found, notes = layout_lib.find(folder)
    splits, more = layout_lib.splits(folder, found, values.layout)
    splits = _held_out(folder, splits, values.held_out)
    everything = [picture for pictures in splits.values() for picture in pictures]
    classes = _classes(folder, everything)
    roots = {feature_of(name): other for name, other in (conditions or {}).items()}
    others = {feature: _paired(root, everything) for feature, root in roots.items()}
    paths = {"image": {p.path: folder / p.path for p in everything}} | {
        feature: {path: roots[feature] / own for path, (own, _) in pairs.items()}
        for feature, pairs in others.items()
    }
    # Pictures of conditions are grey or in colour as the first of them is.
    depths = {"image": values.channels or 3} | {f: _depth(paths[f].values()) for f in others}
    shapes = {f: (values.image_size, values.image_size, depth) for f, depth in depths.items()}

    @functools.cache
    def encoder():  # at the first shard that is to be written
        whites = {f: find_whites(values.bits, paths[f].values(), mapped) for f in paths}
        return functools.partial(encoded, shapes=shapes, whites=whites, encoding=values.encoding)

    def read(pictures, start, stop):
        chosen = pictures[start:stop]
        items = [{feature: paths[feature][p.path] for feature in paths} for p in chosen]
        for picture, (images, reason) in zip(chosen, mapped(encoder(), items), strict=True):
            if images is None:
                yield Skipped(picture.path, reason)
            else:
                label = {"label": classes.index(picture.folder)} if classes else {}
                yield images | label

    parts = tuple(Split(n, len(p), functools.partial(read, p)) for n, p in splits.items())
    asked = ("image_size", "channels", "held_out", "layout", "bits", "encoding")
    sources = [len(everything), _checksum((p.path, p.size) for p in everything)]
    sources += [[feature, _checksum(others[feature].values())] for feature in others]
    request = {"kind": "folder", "sources": sources} | {n: getattr(values, n) for n in asked}
    labels = {"label": ()} if classes else {}
    return Dataset(parts, labels | shapes, classes, request, (*notes, *more), values.encoding)


def _depth(paths):
    """Channels of the first picture that can be read."""
    for path in paths:
        with contextlib.suppress(Exception):
            return decode(path).shape[2]
    return 1


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


def _paired(folder, pictures):
    """{path of a picture: (path below the folder, size)} of a condition's pictures."""
    found, _ = layout_lib.find(folder)
    by_stem = {os.path.splitext(path)[0]: (path, found[path]) for path in found}
    stems = {picture.path: os.path.splitext(picture.path)[0] for picture in pictures}
    for path, stem in stems.items():
        if stem not in by_stem:
            raise UserError(
                f"The picture {path} has no condition image in {folder}: give it one of the same "
                "name, whatever the ending."
            )
    return {path: by_stem[stem] for path, stem in stems.items()}


def _checksum(named_sizes):
    """Of pictures' names and sizes, in their order."""
    listing = "".join(f"{name}\0{size}\n" for name, size in named_sizes)
    return hashlib.sha256(listing.encode(errors="surrogateescape")).hexdigest()


@contextlib.contextmanager
def pool(workers):
    """Yields a `map` that runs in so many processes; in this one, for 0."""
    if not workers:
        yield map
        return
    # Spawned, as a fork would copy this process's threads half.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_become_worker) as executor:
        yield functools.partial(executor.map, chunksize=8)


def _become_worker():
    """Makes a process of the pool end with the program that started it, even if that is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C reaches all; the program ends the pool

    def watch():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def encoded(paths, shapes, whites, encoding):
    """An example's pictures brought to a size and stored: ({feature: image}, None), or (None, why).

    A function of the module, as processes that read pictures are given it.
    """
    try:
        pictures = {feature: decode(path, whites[feature]) for feature, path in paths.items()}
        height, width = pictures["image"].shape[:2]
        for feature, picture in pictures.items():
            h, w = picture.shape[:2]
            if abs(h * width - w * height) > max(height, width):  # more than a pixel of its own
                return None, f"it is {height}x{width}, and its {feature} {h}x{w}: another shape"
        fitted = {f: fit(picture, *shapes[f][1:]) for f, picture in pictures.items()}
        return {f: stored(image, encoding) for f, image in fitted.items()}, None
    except Exception as error:  # the decoders of a dozen formats raise what they like
        return None, reason(error)


def reason(error):
    """Why a file is skipped, of what a decoder has raised."""
    if isinstance(error, UnidentifiedImageError):
        return "it is no picture that Pillow can read"
    return " ".join(str(error).split()) or type(error).__name__


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
