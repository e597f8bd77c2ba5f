"""Datasets as arrays by index: any TFDS dataset in ArrayRecord files, read without TensorFlow.

Points are data as well: `toy_a` and `toy_ab` are those of jaxdiff.data.toy, drawn when opened.
"""

import dataclasses
import pathlib

import numpy as np

from jaxdiff.data.images import fit
from jaxdiff.data.prepared import REQUEST
from jaxdiff.errors import UserError
from jaxdiff.parallel import processes

IN_MEMORY_BYTES = 256 * 2**20
CHUNK = 1024
POINTS = {"toy_a": "A", "toy_ab": "AB"}  # the classes of the toy that are meant


@dataclasses.dataclass(frozen=True)
class Source:
    """One split of a dataset, its images fitted to one shape.

    Attributes:
      records: len and __getitems__(indices), such as a TFDS data source; or the dict of all
        images [N, H, W, C] uint8 and labels [N] int32, held in memory.
        Points are images [N, D] float32, always held in memory.
      size: number of examples.
      image_size, channels: of the images that `fetch` returns.
      label_names: of the classes, in order; empty where the dataset has no labels.
      fit: how images of another size are brought to it, see `jaxdiff.data.images.fit`.
    """

    records: object
    size: int
    image_size: int
    channels: int
    label_names: tuple[str, ...]
    fit: str = "crop"

    def __len__(self):
        return self.size

    def fetch(self, indices):
        """Returns {"image": uint8 [n, H, W, C], "label": int32 [n]} of these examples.

        Points come under the same name, float32 [n, D].
        """
        if isinstance(self.records, dict):
            return {name: array[indices] for name, array in self.records.items()}
        rows = self.records.__getitems__([int(i) for i in indices])
        shape = (self.image_size, self.channels, self.fit)
        images = np.stack([fit(row["image"], *shape) for row in rows])
        labels = np.asarray([row.get("label", 0) for row in rows], np.int32)
        return {"image": images, "label": labels}

    def all(self):
        """All examples in the dataset's order, as `fetch` returns them."""
        return self.fetch(np.arange(self.size))

    def in_memory(self):
        """The same source holding its decoded arrays, if they take less than 256 MB."""
        if isinstance(self.records, dict):
            return self
        if self.size * self.image_size**2 * self.channels >= IN_MEMORY_BYTES:
            return self
        chunks = [
            self.fetch(range(start, min(start + CHUNK, self.size)))
            for start in range(0, self.size, CHUNK)
        ]
        arrays = {name: np.concatenate([c[name] for c in chunks]) for name in chunks[0]}
        return dataclasses.replace(self, records=arrays)


def open_source(name, split, *, image_size, channels, num_classes, fit="crop"):
    """Opens one split of a dataset.

    Args:
      name: `digits` (prepared at first use), `toy_a` or `toy_ab` (points), the name of a TFDS
        dataset that has been prepared as ArrayRecord, or the folder of one.
      split: such as "train".
      image_size, channels: what images are fitted to.
      num_classes: how many classes the dataset must have; 0 ignores labels.
      fit: how: `crop` or `pad`, see `jaxdiff.data.images.fit`.

    Raises:
      UserError: for a dataset that is unknown, not prepared, or has other classes.
    """
    if name in POINTS:
        return _open_points(name, split)
    builder = _builder(name)
    features = builder.info.features
    if "image" not in features:
        raise UserError(
            f"The dataset {name} has the features {', '.join(features)} and no image: "
            "set data.name to a dataset of images."
        )
    names = tuple(features["label"].names) if "label" in features else ()
    if num_classes and num_classes != len(names):
        raise UserError(
            f"data.num_classes is {num_classes}, but the dataset {name} has {len(names)} classes: "
            f"set it to {len(names)}, or to 0 to ignore labels."
        )
    if split not in builder.info.splits:
        raise UserError(
            f"The dataset {name} has no split {split}: it has {', '.join(builder.info.splits)}."
        )
    try:
        records = builder.as_data_source(split=split)
    except NotImplementedError:
        raise UserError(
            f"The dataset {name} is not stored as ArrayRecord: {_how_to_prepare(name)}."
        ) from None
    names = names if num_classes else ()
    return Source(records, len(records), image_size, channels, names, fit)


def open_split(data, split):
    """The same for a config's section `data`."""
    return open_source(
        data.name,
        split,
        image_size=data.image_size,
        channels=data.channels,
        num_classes=data.num_classes,
        fit=data.fit,
    )


def _open_points(name, split):
    from jaxdiff.data import toy

    if split not in toy.SPLITS:
        raise UserError(
            f"The data {name} have no split {split}: they have {', '.join(toy.SPLITS)}."
        )
    points = toy.points(POINTS[name], split)
    records = {"image": points, "label": np.zeros(len(points), np.int32)}
    return Source(records, len(points), image_size=1, channels=points.shape[1], label_names=())


def _how_to_prepare(name):
    return (
        f"prepare it with `pip install -e '.[tf]' && tfds build {name} --file_format=array_record`"
    )


def _builder(name):
    import tensorflow_datasets as tfds

    if name == "digits":
        return processes.first_then_rest(_prepare_digits)
    if (pathlib.Path(name) / "dataset_info.json").exists():
        return tfds.builder_from_directory(name)
    if (pathlib.Path(name) / REQUEST).exists():
        raise UserError(
            f"The preparation of {name} was not finished: repeat its command, which continues it."
        )
    try:
        builder = tfds.builder(name)
    except (tfds.core.registered.DatasetNotFoundError, ValueError, OSError):
        raise UserError(
            f"data.name {name} is neither a dataset that TFDS knows nor a folder with a prepared "
            "one: check the spelling against https://www.tensorflow.org/datasets/catalog, or make "
            "one of npz files or pictures with `python -m jaxdiff.data.prepare`."
        ) from None
    if not builder.is_prepared():
        raise UserError(
            f"The dataset {name} has not been prepared in {builder.data_path}: "
            f"{_how_to_prepare(name)}."
        )
    return builder


def _prepare_digits():
    from jaxdiff.data.digits import Digits

    builder = Digits(file_format="array_record")
    try:
        builder.download_and_prepare()
    except OSError as error:
        raise UserError(
            f"The digits cannot be written to {builder.data_path} ({error.strerror or error}): "
            "set the environment variable TFDS_DATA_DIR to a folder that can be written."
        ) from None
    return builder
