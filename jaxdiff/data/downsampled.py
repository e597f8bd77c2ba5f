"""The downsampled ImageNet of image-net.org (Chrabaszcz et al. 2017, arXiv:1707.08819), npz files.

train_data_batch_1.npz to train_data_batch_10.npz and val_data.npz hold `data`, uint8
[N, 3 * size * size], red, then green, then blue; `labels`, 1 to 1,000, which are the numbers of
map_clsloc.txt and of the development kit; and `mean`, which is not read. Pictures were resampled
with a box filter and without keeping their shape, so they are not those that ADM trains on.
"""

import functools
import math
import re

import numpy as np

from jaxdiff.arrays import open_npz
from jaxdiff.data import ilsvrc
from jaxdiff.data.dataset import Dataset, Split, stored
from jaxdiff.data.npz import read_checksums
from jaxdiff.errors import UserError


def open_arrays(paths, values, kit, mapped):
    """A dataset of these files, whose classes are the 1,000 wnids in their order.

    Of a file that is not compressed so many rows are in memory at a time as a shard has; of one
    that is, all of its pictures, 1.6 GB.

    Args:
      paths: of the npz files.
      values: a `jaxdiff.data.prepare.Preparation`.
      kit: a `jaxdiff.data.ilsvrc.Kit`.
      mapped: (function, items) -> results in order.

    Returns:
      A `Dataset`.

    Raises:
      UserError: if a file is none of these, or of another size than is wanted.
    """
    classes, places = sorted(kit.numbers), ilsvrc.order(kit.numbers)
    splits = _by_split(paths)
    sizes = {path: _size(path, values.image_size) for each in splits.values() for path in each}
    if len(set(sizes.values())) > 1:
        raise UserError(
            f"The npz files hold pictures of the sizes {set(sizes.values())}: give one."
        )
    size = next(iter(sizes.values()))
    notes, parts = [], []
    opened = functools.lru_cache(maxsize=1)(lambda path: open_npz(path)["data"])
    for split, of_split in splits.items():
        labels = [_labels(path, places) for path in of_split]
        ends = np.cumsum([len(each) for each in labels])
        joined = np.concatenate(labels)
        notes += ilsvrc.findings(split, joined, classes, kit)
        read = functools.partial(
            _read, opened, of_split, ends, joined, size, values.encoding, mapped
        )
        parts.append(Split(split, len(joined), read))
    notes.append(
        "These pictures were downsampled in another way than those that `prepare imagenet` makes "
        "of the archives: a network and its guide must be trained on the same."
    )
    request = {
        "kind": "downsampled",
        "classes": ilsvrc.order(kit.numbers).tolist(),
        "encoding": values.encoding,
        "sources": {path.name: read_checksums(path) for path in sizes},
    }
    return Dataset(
        tuple(parts),
        {"label": (), "image": (size, size, 3)},
        tuple(classes),
        request,
        tuple(notes),
        values.encoding,
        ilsvrc.words(classes, kit),
    )


def _by_split(paths):
    """{split: its files, by number}."""
    splits, seen = {}, set()
    for path in sorted(paths, key=lambda path: (_number(path), path.name)):
        if path.name in seen:
            raise UserError(f"Two files are called {path.name}: give one of them.")
        seen.add(path.name)
        split = "validation" if path.name == "val_data.npz" else "train"
        splits.setdefault(split, []).append(path)
    return dict(sorted(splits.items()))


def _number(path):
    if path.name == "val_data.npz":
        return 0
    if not (match := re.fullmatch(r"train_data_batch(?:_(\d+))?\.npz", path.name)):
        raise UserError(
            f"{path} has not the name of a file of downsampled pictures, train_data_batch_1.npz "
            "and so on, or val_data.npz: rename it, or give other arrays to `prepare npz`."
        )
    return int(match[1] or 0)


def _size(path, wanted):
    """Height and width of a file's pictures."""
    arrays = open_npz(path)
    data, labels = arrays.get("data"), arrays.get("labels")
    shape = data.shape if data else ()
    size = math.isqrt(shape[1] // 3) if len(shape) == 2 else 0
    is_good = size > 0 and shape[1] == 3 * size * size and data.dtype == np.uint8
    if not (is_good and labels and labels.shape == shape[:1] and labels.dtype.kind in "iu"):
        held = ", ".join(f"{n} {rows.dtype} {list(rows.shape)}" for n, rows in arrays.items())
        raise UserError(
            f"{path} holds {held or 'nothing'}: a file of downsampled pictures has `data`, uint8 "
            "[N, 3 * size * size], and `labels`, integers [N]; give other arrays to `prepare npz`."
        )
    if wanted and size != wanted:
        raise UserError(
            f"{path} holds pictures of {size}x{size}, and --image_size is {wanted}: give the files "
            f"of that size, or leave --image_size out."
        )
    return size


def _labels(path, places):
    """The classes of a file's pictures, as places among the sorted wnids."""
    labels = open_npz(path)["labels"].all().astype(np.int64)
    wrong = labels[(labels < 1) | (labels > ilsvrc.CLASSES)]
    if len(wrong):
        raise UserError(
            f"{path} has the label {wrong[0]}, and the labels of downsampled pictures are 1 to "
            f"{ilsvrc.CLASSES}: download the file again, or give other arrays to `prepare npz`."
        )
    return places[labels]


def _read(opened, paths, ends, labels, size, encoding, mapped, start, stop):
    """The examples of a split in [start, stop), as a `Split` reads them."""
    while start < stop:
        file = int(np.searchsorted(ends, start, side="right"))
        begin = int(ends[file - 1]) if file else 0
        end = min(stop, int(ends[file]))
        rows = opened(paths[file]).read(range(start - begin, end - begin))
        images = mapped(functools.partial(encoded, size=size, encoding=encoding), rows)
        for label, image in zip(labels[start:end], images, strict=True):
            yield {"image": image, "label": int(label)}
        start = end


def encoded(row, size, encoding):
    """A row [3 * size * size] as an image that is stored."""
    return stored(np.ascontiguousarray(row.reshape(3, size, size).transpose(1, 2, 0)), encoding)
