"""Datasets in folders of pictures, a folder for each class."""

import contextlib
import functools
import hashlib
import multiprocessing
import os
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

from jaxdiff.data import layout as layout_lib
from jaxdiff.data.dataset import Dataset, Skipped, Split, check_classes, feature_of, png
from jaxdiff.data.images import fit
from jaxdiff.data.pictures import decode, find_whites
from jaxdiff.errors import UserError


def open_folder(
    folder,
    image_size,
    channels=3,
    held_out=0.0,
    layout=None,
    bits=None,
    conditions=None,
    mapped=map,
):
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
      layout: `classes` or `splits`, what the folders are; None: by their names.
      bits: that pictures of more than 8 use; None: by their values.
      conditions: {condition's name: folder of pictures with the same names, but for their endings}.
      mapped: (function, items) -> results in order; such as `pool` yields.

    Returns:
      A `jaxdiff.data.dataset.Dataset`.

    Raises:
      UserError: if there is no such folder, it holds no pictures in such an order, or a picture
        lacks its condition's.
    """
    found, notes = layout_lib.find(folder)
    splits, more = layout_lib.splits(folder, found, layout)
    splits = _held_out(folder, splits, held_out)
    everything = [picture for pictures in splits.values() for picture in pictures]
    classes = _classes(folder, everything)
    others = {name: _paired(other, everything) for name, other in (conditions or {}).items()}
    paths = {"image": [str(folder / picture.path) for picture in everything]}
    paths |= {feature_of(name): [p for p, _ in pairs] for name, pairs in others.items()}
    # Pictures of conditions are grey or in colour as the first of them is.
    depths = {"image": channels} | {
        feature_of(name): decode(pairs[0][0]).shape[2] for name, pairs in others.items()
    }

    @functools.cache
    def encoder():  # at the first shard that is to be written
        whites = {feature: find_whites(bits, paths[feature], mapped) for feature in paths}
        return functools.partial(encoded, image_size=image_size, channels=depths, whites=whites)

    def read(first, pictures, start, stop):
        chosen = range(first + start, first + min(stop, len(pictures)))
        items = ({feature: paths[feature][n] for feature in paths} for n in chosen)
        for n, (example, reason) in zip(chosen, mapped(encoder(), items), strict=True):
            picture = everything[n]
            if example is None:
                yield Skipped(picture.path, reason)
            else:
                label = {"label": classes.index(picture.folder)} if classes else {}
                yield {**example, **label}

    parts, first = [], 0
    for name, pictures in splits.items():
        parts.append(Split(name, len(pictures), functools.partial(read, first, pictures)))
        first += len(pictures)
    request = {
        "kind": "folder",
        "image_size": image_size,
        "channels": channels,
        "held_out": held_out,
        "layout": layout,
        "bits": bits,
        "sources": [
            len(everything),
            _checksum([(p.path, p.size) for p in everything]),
            {name: _checksum(pairs) for name, pairs in others.items()},
        ],
    }
    shapes = {feature: (image_size, image_size, depth) for feature, depth in depths.items()}
    shapes |= {"label": ()} if classes else {}
    return Dataset(tuple(parts), shapes, classes, request, (*notes, *more))


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
    """[(path, size)] of the pictures in another folder that belong to these."""
    found, _ = layout_lib.find(folder)
    by_stem = {os.path.splitext(path)[0]: (path, size) for path, size in found.items()}
    pairs = []
    for picture in pictures:
        pair = by_stem.get(os.path.splitext(picture.path)[0])
        if pair is None:
            raise UserError(
                f"The picture {picture.path} has no condition image in {folder}: give it one of "
                "the same name, whatever the ending."
            )
        pairs.append((str(folder / pair[0]), pair[1]))
    return pairs


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
    with ProcessPoolExecutor(workers, mp_context=context) as executor:
        yield functools.partial(executor.map, chunksize=8)


def encoded(paths, image_size, channels, whites):
    """An example's pictures brought to a size: ({feature: PNG bytes}, None), or (None, why not)."""
    try:
        return {
            feature: png(fit(decode(path, whites[feature]), image_size, channels[feature]))
            for feature, path in paths.items()
        }, None
    except Exception as error:  # the decoders of a dozen formats raise what they like
        return None, " ".join(str(error).split()) or type(error).__name__


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
