"""Sets of images that are measured: samples of a model, and real ones to compare them with.

A set reads its images when they are asked for, so that as many as a data set has need no memory.
What is opened: a folder that sample.py wrote, an npz file, a folder of pictures, a prepared
dataset. Images of another size are brought to `image_size` as ADM prepares its data
(jaxdiff/data/images.py), and never without being asked to.
"""

import dataclasses
import hashlib
import os
from collections.abc import Callable
from functools import cached_property, partial

import numpy as np
from etils import epath

from jaxdiff import arrays, files
from jaxdiff.claims import OTHERS
from jaxdiff.config import DataConfig
from jaxdiff.data.dataset import INFO, REQUEST
from jaxdiff.data.images import fit as fitted
from jaxdiff.data.npz import IMAGES, LABELS, class_names
from jaxdiff.data.record import checksum
from jaxdiff.data.source import open_builder, open_split
from jaxdiff.errors import UserError
from jaxdiff.evaluation import picture_folder
from jaxdiff.sampling import finite
from jaxdiff.sampling.samples import MANIFEST, SETTINGS, SHARDS, samples_file
from jaxdiff.sampling.shards import shard_paths

FEATURES = "features"  # folder of what is kept of a set of images
LABELLED = 1024  # examples whose labels are read at once
AGAIN = "repeat its sample.py command, which continues it"


@dataclasses.dataclass(frozen=True, eq=False)
class ImageSet:
    """Images in an order, all of one shape.

    Attributes:
      name: as the user gave it.
      digest: SHA-256 (hexadecimal) of the contents.
      shape: (H, W, C) of every image, C 1 or 3.
      fetch: rows [B] int -> uint8 [B, H, W, C], the images with these numbers.
      count: N, how many there are.
      read_labels: rows [B] int -> int [B], their classes; None where there are none.
      class_names: of the labels, in order; empty where they are not known.
      folder: where features of the images are kept; None: nowhere.
      non_finite: numbers of the samples that held NaN or infinities, whose images mean nothing.
      lossy: how many are in files that lose detail (JPEG and its like), which moves all metrics.
      notes: sentences on what was found and is no image of the set.
    """

    name: str
    digest: str
    shape: tuple[int, int, int]
    fetch: Callable[..., np.ndarray]
    count: int
    read_labels: Callable[..., np.ndarray] | None = None
    class_names: tuple[str, ...] = ()
    folder: epath.Path | None = None
    non_finite: tuple[int, ...] = ()
    lossy: int = 0
    notes: tuple[str, ...] = ()

    def __len__(self):
        return self.count

    @cached_property
    def labels(self):
        """The class of every image, int [N]; None where there are none."""
        if self.read_labels is None:
            return None
        starts = range(0, self.count, LABELLED)
        rows = (np.arange(start, min(start + LABELLED, self.count)) for start in starts)
        return np.concatenate([self.read_labels(each) for each in rows])

    def take(self, rows):
        """The set of the images with these numbers [B], in this order."""
        rows = np.asarray(rows, np.int64)
        place = {number: n for n, number in enumerate(rows.tolist())}
        return dataclasses.replace(
            self,
            digest=derived(self.digest, arrays.checksum(rows)),
            fetch=lambda own: self.fetch(rows[own]),
            read_labels=self.read_labels and (lambda own: self.read_labels(rows[own])),
            count=len(rows),
            non_finite=tuple(place[number] for number in self.non_finite if number in place),
        )

    def check_finite(self):
        """Raises UserError if some of the samples are not finite, naming the first of them."""
        if len(self.non_finite):
            found = finite.about(finite.summary(self.non_finite), self.count)
            raise UserError(f"{self.name}: {found}: give samples that all are.")


def derived(*parts):
    """The digest of something that is made of what has these digests or settings."""
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()


def of_arrays(images, labels=None, name="an array", class_names=()):
    """The ImageSet of images in memory.

    Args:
      images: uint8 [N, H, W, C] with C 1 or 3, or grey [N, H, W].
      labels: int [N], or None.
      name: of the set, for messages and results.
      class_names: of the labels, in order.

    Raises:
      UserError: for arrays that are not that.
    """
    images = np.asarray(images)
    shape = _shape(images, "images", name)
    images = images.reshape(len(images), *shape)
    digest = arrays.checksum(images)
    if labels is not None:
        labels = np.asarray(labels)
        _check_labels(labels, len(images), name)
        digest = derived(digest, arrays.checksum(labels))
    return ImageSet(
        name=name,
        digest=digest,
        shape=shape,
        fetch=lambda rows: images[rows],
        count=len(images),
        read_labels=None if labels is None else lambda rows: labels[rows],
        class_names=tuple(class_names),
    )


def open_images(text, *, split=None, image_size=None, fit="crop"):
    """The ImageSet at a path, local or in a bucket.

    Args:
      text: a folder that sample.py wrote, whose shards need not be merged yet; an npz file with
        images as `arr_0` or `images`, uint8 [N, H, W, C] or [N, H, W], and classes as `labels` or
        `arr_1`; a folder of pictures in the order of their names, or one of such a folder for each
        class; or a prepared dataset.
      split: of a dataset or a folder of splits; None: `train`, or the only one.
      image_size: height and width that images are brought to; None: they stay as they are.
      fit: how: `crop`: scaled, and the middle cut out; `pad`: framed with black, as DataConfig.fit.

    Raises:
      UserError: if there is none, a file is corrupt, samples are missing, images are not uint8 or
        differ in size where no image_size is given.
    """
    path = files.parse_path(text, "The path of the images")
    if not files.exists(path):
        raise UserError(
            f"{text} does not exist: give a folder that sample.py wrote, an npz file, a folder of "
            "pictures or a prepared dataset."
        )
    if not files.is_folder(path):
        return _sized(_npz(text, path, split), image_size, fit)
    names = {*files.names(path)}
    if {INFO, REQUEST} & names:
        return _dataset(text, path, split, image_size, fit)
    for file, kind in OTHERS.items():
        if file in names:
            raise UserError(f"{text} is the folder of {kind}, as it holds {file}: give images.")
    if MANIFEST not in names and {SETTINGS, SHARDS} <= names:
        return _sized(_shards(text, path, split), image_size, fit)
    if MANIFEST in names or any(name.startswith("samples_") for name in names):
        return _sized(_npz(text, samples_file(path), split), image_size, fit)
    if SETTINGS in names:
        raise UserError(f"{text} holds no samples yet: {AGAIN}.")
    return _pictures(text, path, split, image_size, fit)


def is_of_sampling(path):
    """Whether a folder is one that sample.py wrote, which holds files of results as well."""
    names = files.names(path)
    return any(name in (MANIFEST, SETTINGS) or name.startswith("samples_") for name in names)


def beside(path):
    """Where features are kept of what is not a folder that sample.py wrote: NAME.features."""
    path = path if path.name else files.absolute(path)  # as of "."
    return path.with_name(f"{path.name.removesuffix('.npz')}.{FEATURES}")


def _sized(images, size, how):
    """The same set with its images brought to a size."""
    if size is None or images.shape[:2] == (size, size):
        return images
    channels = images.shape[2]
    return dataclasses.replace(
        images,
        digest=derived(images.digest, size, how),
        shape=(size, size, channels),
        fetch=lambda rows: np.stack(
            [fitted(each, size, channels, how) for each in images.fetch(rows)]
        ),
    )


# npz files, and shards of samples.


def _npz(text, path, split):
    refuse_split(text, split)
    found, recorded, names = arrays.open_npz(path), None, ()
    if {MANIFEST, SETTINGS} <= {*files.names(path.parent)}:
        manifest = files.read_json(path.parent / MANIFEST, ("sha256",))
        recorded, names = manifest["sha256"].get(path.name), manifest.get("class_names", ())
    key = next((name for name in IMAGES if name in found), None)
    if key is None:
        raise UserError(
            f"{path} holds {', '.join(found) or 'nothing'}, and no images: give an npz file with "
            "`arr_0` or `images`."
        )
    images = found[key]
    shape = _shape(images, key, path)
    labels = next((found[name] for name in LABELS if name in found), None)
    if labels is not None:
        _check_labels(labels, images.shape[0], path)
    return ImageSet(
        name=str(text),
        digest=_digest(path, recorded),
        shape=shape,
        fetch=lambda rows: images.read(rows).reshape(len(rows), *shape),
        count=images.shape[0],
        read_labels=None if labels is None else labels.read,
        class_names=tuple(class_names(path) if "class_names" in found else names),
        folder=path.parent / FEATURES if recorded else beside(path),
        non_finite=tuple(found[finite.ARRAY].all().tolist()) if finite.ARRAY in found else (),
    )


def _digest(path, recorded):
    """SHA-256 of an npz file whose content is whole.

    Args:
      path: of it.
      recorded: what its manifest says; None: it has none.
    """
    if recorded is None:
        arrays.check_npz(path)
        return files.sha256(path)
    # The manifest of what is in a bucket is believed: it would have to be downloaded.
    if not files.is_remote(path) and files.sha256(path) != recorded:
        raise UserError(
            f"{path} was changed since it was written, as {MANIFEST} beside it says: restore it, "
            "or sample again."
        )
    return recorded


def _shards(text, folder, split):
    """The samples of a job that is not merged yet, of which no shard may be missing."""
    refuse_split(text, split)
    settings = files.read_json(folder / SETTINGS, ("num_samples", "shard"))
    count, size = settings["num_samples"], settings["shard"]
    paths, there = shard_paths(folder, count, size), {*files.names(folder / SHARDS)}
    if missing := [path for path in paths if path.name not in there]:
        raise UserError(
            f"{text} is not finished: {len(missing)} of {len(paths)} shards of its {count:,} "
            f"samples are missing: {AGAIN}."
        )
    shards = [arrays.open_npz(path) for path in paths]
    shape = _shape(shards[0]["images"], "images", paths[0])
    bad = np.concatenate([shard[finite.ARRAY].all() for shard in shards])

    def fetch(rows):
        rows, images = np.asarray(rows), np.empty((len(rows), *shape), np.uint8)
        for number in np.unique(rows // size):
            own = rows // size == number
            images[own] = shards[number]["images"].read(rows[own] % size)
        return images

    return ImageSet(
        name=str(text),
        digest=derived(*(_digest(path, None) for path in paths)),
        shape=shape,
        fetch=fetch,
        count=count,
        folder=folder / FEATURES,
        non_finite=tuple(bad.tolist()),
        notes=(f"{text} is not merged: its classes are not known until sample.py has done so.",),
    )


def refuse_split(text, split):
    """Raises UserError if a split is given of what has none."""
    if split is not None:
        raise UserError(f"--split is {split}, but {text} holds no splits: leave it out.")


def _shape(images, name, where):
    """(H, W, C) of an array of images, or `arrays.Rows` of one."""
    shape = tuple(images.shape)
    full = (*shape, 1) if len(shape) == 3 else shape
    if images.dtype != np.uint8 or len(full) != 4 or full[3] not in (1, 3) or 0 in full:
        raise UserError(
            f"{where} holds {name} of {images.dtype} {list(shape)}: images must be uint8, 0 to "
            "255, [N, H, W, C] with C 1 or 3 or [N, H, W], and at least one."
        )
    return full[1:]


def _check_labels(labels, count, where):
    if labels.dtype.kind not in "iu" or tuple(labels.shape) != (count,):
        raise UserError(
            f"{where} holds labels of {labels.dtype} {list(labels.shape)} for {count:,} images: "
            f"they must be integers [{count}]."
        )


# Folders of pictures, and prepared datasets.


def _pictures(text, path, split, image_size, how):
    found = picture_folder.open_folder(files.local_copy(path), str(text), split, image_size, how)
    return ImageSet(
        name=str(text),
        digest=found.digest,
        shape=found.shape,
        fetch=found.fetch,
        count=len(found.paths),
        read_labels=None if found.labels is None else lambda rows: found.labels[rows],
        class_names=found.class_names,
        folder=beside(path),
        lossy=found.lossy,
        notes=found.notes,
    )


def _dataset(text, path, split, image_size, how):
    """A split of a prepared dataset, its images in colour unless all are grey."""
    features = dict(open_builder(str(text), files.local_copy(path)).info.features.items())
    shape = tuple(getattr(features.get("image"), "shape", None) or ())
    size = image_size or (shape[0] if len(shape) == 3 and shape[0] == shape[1] else None)
    if size is None and len(shape) == 3:
        raise UserError(
            f"The dataset {text} has images of the shape {shape}: give the --image_size of squares "
            "that they are brought to."
        )
    channels = 1 if shape[-1:] == (1,) else 3
    data = DataConfig(name=os.fspath(path), image_size=size or 1, fit=how, channels=channels)
    source = open_split(data, split or "train", ())
    has_labels = hasattr(features.get("label"), "num_classes") and _labels(source, [0])[0] >= 0
    return ImageSet(
        name=str(text) if split is None else f"{text}:{split}",
        digest=digest_of(source, data),
        shape=data.shape,
        fetch=lambda rows: source.fetch(rows)["x"],
        count=len(source),
        read_labels=partial(_labels, source) if has_labels else None,
        class_names=tuple(features["label"].names) if has_labels else (),
        folder=beside(path),
    )


def digest_of(source, data):
    """Of the images of a `jaxdiff.data.source.Source`, as the settings `data` bring them to a size.

    Raises:
      UserError: if examples cannot be read.
    """
    return derived(checksum(source), data.shape, getattr(data, "fit", ""))


def _labels(source, rows):
    """Int [B], as they are stored: no image is decoded. Negative in splits without labels."""
    from tensorflow_datasets.proto import tf_example_pb2

    examples = map(tf_example_pb2.Example.FromString, source.raw(rows))
    return np.array([each.features.feature["label"].int64_list.value[0] for each in examples])
