"""ImageNet (ILSVRC2012), from its archives, from folders of classes, or from downsampled npz files.

`find` says what the paths that a user gives are, and `open_imagenet` makes a dataset of them, with
the splits train and validation. A picture is read as ADM and torchvision read it: whole, in colour,
and not turned as EXIF's orientation says, which hardly any program that was measured on ImageNet
applies.
"""

import dataclasses
import functools
import hashlib
import json
import re

import numpy as np
from etils import epath

from jaxdiff import files
from jaxdiff.data import archives, downsampled, ilsvrc
from jaxdiff.data import layout as layout_lib
from jaxdiff.data.archives import Members
from jaxdiff.data.dataset import INFO, Dataset, Skipped, Split, stored
from jaxdiff.data.folders import reason
from jaxdiff.data.images import fit
from jaxdiff.data.pictures import decode_as_stored
from jaxdiff.data.prepared import PROGRESS, claim
from jaxdiff.errors import UserError

ARRAYS = r"(train_data_batch(_\d+)?|val_data)\.npz"  # as image-net.org calls them
KNOWN = {
    "ILSVRC2012_img_train.tar": "train",
    "ILSVRC2012_img_val.tar": "validation",
    "ILSVRC2012_devkit_t12.tar.gz": "kit",
    **dict.fromkeys((ilsvrc.SOLUTION, *ilsvrc.LISTS), "kit"),
}
FOLDERS = {"train": "train", "val": "validation", "validation": "validation"}
ON_THE_WAY = r"ILSVRC|Data|CLS-LOC|ILSVRC2012_devkit_t12|Imagenet\d+_\w*npz"  # looked into
# What an image takes, for the lines before the work begins.
PNG_SHARE = 0.7  # of height x width x 3 bytes
SECONDS = 1 / 200  # of one core, to decode a picture, see benchmarks/imagenet_preparation.py


@dataclasses.dataclass(frozen=True)
class Sources:
    """What is to be read.

    Attributes:
      splits: {"train" or "validation": an archive, or a folder}.
      arrays: npz files of downsampled pictures.
      kit: files that say something of the classes.
    """

    splits: dict[str, epath.Path]
    arrays: tuple[epath.Path, ...]
    kit: tuple[epath.Path, ...]


def find(paths):
    """What paths are, and what is in those that are folders.

    Returns:
      `Sources`.

    Raises:
      UserError: if one is nothing of ImageNet, or two are the same split.
    """
    splits, arrays, kit = {}, [], []
    for path in paths:
        if not files.exists(path):
            raise UserError(f"{path} does not exist: give files of ImageNet or their folder.")
        found = list(_inside(path)) if files.is_folder(path) else [(_kind(path), path)]
        if not found:
            raise UserError(
                f"{path} holds nothing of ImageNet: give a folder with {', '.join(KNOWN)}, with "
                "the folders train and val, or with train_data_batch_1.npz, val_data.npz."
            )
        for kind, each in found:
            if kind in ("arrays", "kit"):
                (arrays if kind == "arrays" else kit).append(each)
            elif splits.setdefault(kind, each) != each:
                raise UserError(
                    f"{splits[kind]} and {each} are both the split {kind}: give one of them."
                )
    if bool(splits) == bool(arrays):
        held = "pictures and npz files of downsampled ones" if splits else "no pictures"
        raise UserError(f"{paths[0]} and what else was given are {held}: give one kind of them.")
    return Sources(splits, tuple(arrays), tuple(kit))


def _kind(path):
    """What a file is: train, validation, kit or arrays."""
    if path.name in KNOWN:
        return KNOWN[path.name]
    if path.name.endswith(".npz"):
        return "arrays"
    if path.name.endswith((".tar.gz", ".tgz")):
        return "kit"
    if path.name.endswith(".tar"):
        names = archives.members(path).names
        return "train" if len(names) and names[0].endswith(b".tar") else "validation"
    raise UserError(
        f"{path} is nothing of ImageNet: give {', '.join(KNOWN)}, folders, or the npz files of "
        "downsampled pictures."
    )


def _inside(folder):
    """(kind, path) of what is in a folder."""
    names = files.names(folder)
    if files.exists(folder / ilsvrc.META):
        yield "kit", folder
    elif any(re.fullmatch(ilsvrc.WNID, name) for name in names):
        yield "train", folder
        return
    for name in names:
        path = folder / name
        if name in KNOWN:
            yield KNOWN[name], path
        elif re.fullmatch(ARRAYS, name):
            yield "arrays", path
        elif name in FOLDERS and files.is_folder(path):
            yield FOLDERS[name], path
        elif re.fullmatch(ON_THE_WAY, name) and files.is_folder(path):
            yield from _inside(path)


@dataclasses.dataclass(frozen=True)
class Found:
    """The pictures of a split.

    Attributes:
      path: the archive, or the folder.
      members: their names, and where in the archive they are; of a folder the paths below it.
      wnids: the class of each.
    """

    path: epath.Path
    members: Members
    wnids: np.ndarray

    def item(self, n):
        """(file, byte at which it begins, bytes) of a picture."""
        size = int(self.members.sizes[n])
        if offset := int(self.members.offsets[n]):
            return self.path, offset, size
        return self.path / self.name(n), 0, size

    def name(self, n):
        """What a picture is called."""
        return self.members.names[n].decode(errors="surrogateescape")

    def of(self, classes):
        """The same without pictures of other classes."""
        chosen = np.flatnonzero(np.isin(self.wnids, classes))
        parts = (self.members.names, self.members.offsets, self.members.sizes)
        return Found(self.path, Members(*(part[chosen] for part in parts)), self.wnids[chosen])


def open_imagenet(paths, name, values, out, mapped):
    """A dataset of ImageNet's pictures; `out` becomes its folder before archives are searched.

    Args:
      paths: what the user gave.
      name: of the dataset.
      values: a `jaxdiff.data.prepare.Preparation`.
      out: its folder.
      mapped: (function, items) -> results in order.

    Returns:
      A `Dataset`.

    Raises:
      UserError: if something is missing, not whole, or not of ImageNet.
    """
    sources = find(paths)
    kit = ilsvrc.read_kit(sources.kit)
    if sources.arrays:
        return downsampled.open_arrays(sources.arrays, values, kit, mapped)
    if not values.image_size:
        raise UserError("--image_size is missing: give the size of images, such as 64.")
    readers = {s: _reader(s, path, kit) for s, path in sorted(sources.splits.items())}
    request = {
        "kind": "imagenet",
        "image_size": values.image_size,
        "encoding": values.encoding,
        "sources": {split: identity for split, (identity, _) in readers.items()},
    }
    claim(out, name, request)
    cache = None if files.exists(out / INFO) else out / PROGRESS
    found = {split: read(mapped, cache) for split, (_, read) in readers.items()}
    classes = np.unique(found["train" if "train" in found else "validation"].wnids).tolist()
    if not classes:
        raise UserError(f"{paths[0]} holds no picture: give the files as they were downloaded.")
    notes, parts = [], []
    for split, every in found.items():
        chosen = every.of(classes)
        labels = np.searchsorted(classes, chosen.wnids)
        notes += ilsvrc.findings(split, labels, classes, kit)
        if left := len(every.wnids) - len(labels):
            notes.append(f"Left out, pictures in {split} of classes that train has not: {left:,}.")
        if len(labels):
            read = functools.partial(_read, chosen, labels, values, mapped)
            parts.append(Split(split, len(labels), read))
    shapes = {"label": (), "image": (values.image_size, values.image_size, 3)}
    texts = ilsvrc.words(classes, kit)
    return Dataset(
        tuple(parts), shapes, tuple(classes), request, tuple(notes), values.encoding, texts
    )


def _reader(split, path, kit):
    """(what a split's source is, for the request; function (mapped, cache) -> `Found`)."""
    if files.is_folder(path):
        found = _in_folder(split, path, kit)
        return [len(found.wnids), _sha256(found)], lambda mapped, cache: found
    outer = archives.members(path).sorted()
    if split == "train":
        wnids = _inner_wnids(path, outer)
        return [len(outer), outer.sha256()], functools.partial(_in_archives, path, outer, wnids)
    found = Found(path, outer, _labelled(path, outer.names, kit))
    return [len(outer), _sha256(found)], lambda mapped, cache: found


def _sha256(found):
    """Of names, sizes and classes."""
    classes = hashlib.sha256(json.dumps(found.wnids.tolist()).encode()).hexdigest()
    return [found.members.sha256(), classes]


def _inner_wnids(path, outer):
    names = [name.decode(errors="replace") for name in outer.names.tolist()]
    for name in names or ["nothing"]:
        if not re.fullmatch(rf"{ilsvrc.WNID}\.tar", name):
            raise UserError(
                f"{path} holds {name}, and not an archive for each class, such as n01440764.tar: "
                "give ILSVRC2012_img_train.tar as it was downloaded."
            )
    return [name.removesuffix(".tar") for name in names]


def _in_archives(path, outer, wnids, mapped, cache):
    members, counts = archives.inner(path, outer, mapped, cache)
    return Found(path, members, np.repeat(wnids, counts))


def _in_folder(split, path, kit):
    """The pictures of a folder of class folders; of validation, also of a folder without these."""
    pictures, _ = layout_lib.find(path)
    names = sorted(pictures, key=lambda name: (_top(name), name))
    tops = set(map(_top, names))
    for top in sorted(tops - {""}):
        if not re.fullmatch(ilsvrc.WNID, top):
            raise UserError(
                f"{path} holds the folder {top}, which is no wnid such as n01440764: rename it, or "
                "give the pictures to `prepare folder`."
            )
    if "" in tops and (split == "train" or len(tops) > 1):
        raise UserError(
            f"{path} holds pictures beside class folders, or none of these: give a folder "
            "for each class, such as n01440764."
        )
    encoded = np.array([name.encode(errors="surrogateescape") for name in names], "S")
    sizes = np.array([pictures[name] for name in names], np.int64)
    members = Members(encoded, np.zeros_like(sizes), sizes)
    if "" in tops:
        return Found(path, members, _labelled(path, encoded, kit))
    return Found(path, members, np.array([_top(name) for name in names]))


def _top(name):
    """The class folder of a path below a split."""
    return name.partition("/")[0] if "/" in name else ""


def _labelled(path, names, kit):
    """The wnids of validation pictures, which only the development kit or Kaggle's file says."""
    if not kit.truth:
        raise UserError(
            f"{path} does not say the classes of its pictures: give also "
            f"ILSVRC2012_devkit_t12.tar.gz, or Kaggle's {ilsvrc.SOLUTION}."
        )
    stems = [name.decode(errors="replace").rpartition(".")[0] for name in names.tolist()]
    for name, stem in zip(names.tolist(), stems, strict=True):
        if stem not in kit.truth:
            raise UserError(
                f"{path} holds {name.decode(errors='replace')}, whose class the development kit "
                "does not say: give the validation pictures, and the kit of the same year."
            )
    return np.array([kit.truth[stem] for stem in stems])


def _read(found, labels, values, mapped, start, stop):
    """The examples of a split in [start, stop), as a `Split` reads them."""
    encode = functools.partial(encoded, size=values.image_size, encoding=values.encoding)
    results = mapped(encode, [found.item(n) for n in range(start, stop)])
    for n, (image, why) in zip(range(start, stop), results, strict=True):
        if image is None:
            yield Skipped(found.name(n), why)
        else:
            yield {"image": image, "label": int(labels[n])}


def encoded(item, size, encoding):
    """A picture brought to a size and stored: (image, None), or (None, why not).

    A function of the module, as processes that read pictures are given it.

    Args:
      item: see `Found.item`.
      size: height and width wanted.
      encoding: see `jaxdiff.data.dataset.stored`.

    Raises:
      UserError: if the file cannot be read, or is shorter than it was.
    """
    path, offset, count = item
    content = files.read_part(path, offset, count)
    if len(content) < count:
        raise UserError(f"{path} is shorter than it was: see that nothing writes it.")
    try:
        return stored(fit(decode_as_stored(content), size, 3), encoding), None
    except Exception as error:  # the decoders raise what they like
        return None, reason(error)


def plan(dataset, out, workers):
    """Sentences on what is about to be done, before it begins.

    Raises:
      UserError: if the disk has too little space.
    """
    yield from dataset.notes
    count = sum(split.size for split in dataset.splits)
    height, width, channels = dataset.shapes["image"]
    size = count * height * width * channels * (1 if dataset.encoding == "raw" else PNG_SHARE)
    there = sum(each or 0 for each in files.walk(out).values()) if files.exists(out) else 0
    free, _ = files.room(out)
    if size - there > free:
        raise UserError(
            f"{out} needs about {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free there: make "
            "room, or choose another --out."
        )
    yield f"{out} will take about {size / 1e9:.2f} GB, of {free / 1e9:.2f} GB that are free."
    if dataset.request["kind"] == "imagenet":  # others are arrays already
        hours = count * SECONDS / 3600
        yield f"{count:,} pictures take about {hours:.2f} hours of one core; workers: {workers}."
