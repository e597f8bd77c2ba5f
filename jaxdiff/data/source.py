"""One split of a dataset as arrays by index.

An example is {"x": uint8 image [H, W, C] or float array, "cond": {condition's name: array}}.
A dataset is any of TFDS in ArrayRecord files, read without TensorFlow: its feature `image` is x,
and the condition NAME is its feature NAME. As `image` is x, the condition `image` is the feature
`condition_image`.
"""

import dataclasses
import json
import math
import os
from typing import Any

import numpy as np

from jaxdiff import files
from jaxdiff.claims import in_all, in_first
from jaxdiff.config import DataConfig, Image, Label, Vector, imported, label_of
from jaxdiff.data.dataset import FEATURES, INFO, REQUEST, SUMMARY, check_features, feature_of
from jaxdiff.data.images import area_means, fit, to_float
from jaxdiff.errors import UserError
from jaxdiff.local_copies import local_copy

IN_MEMORY_BYTES = 256 * 2**20
CHUNK = 1024  # examples that are decoded at once
AGAIN = "prepare the dataset again"


@dataclasses.dataclass(frozen=True)
class Source:
    """One split of a dataset.

    Attributes:
      rows: `Arrays` or `Records`.
      class_names: of the labels, in order; empty without labels.
      empty: numbers of the classes that have no example, where that is known.
      label: name of the condition that `class_names` are of.
      origin: text that says what the examples were made of, as far as that is known.
      stored: the rows as they are stored, where `rows` are a copy of them in memory.
    """

    rows: Any
    class_names: tuple[str, ...] = ()
    empty: tuple[int, ...] = ()
    label: str = "label"
    origin: str = ""
    stored: Any = None

    def __len__(self):
        return len(self.rows)

    def fetch(self, indices):
        """Returns {"x": [n, ...], "cond": {name: [n, ...]}} of the examples at these indices.

        Raises:
          UserError: if a file is missing or corrupt, or an example has a label of no class.
        """
        return self.rows.fetch(indices)

    def raw(self, indices):
        """The bytes of each of these examples, as they are stored."""
        return (self.stored or self.rows).raw(indices)

    def all(self):
        """All examples in the dataset's order, as `fetch` returns them."""
        return self.fetch(np.arange(len(self)))

    def in_memory(self):
        """The same source holding its decoded arrays, if they take less than 256 MB."""
        if isinstance(self.rows, Arrays):
            return self
        first = self.fetch([0])
        size = sum(array.nbytes for array in (first["x"], *first["cond"].values()))
        if size * len(self) >= IN_MEMORY_BYTES:
            return self
        parts = [
            self.fetch(range(start, min(start + CHUNK, len(self))))
            for start in range(0, len(self), CHUNK)
        ]
        x = np.concatenate([part["x"] for part in parts])
        cond = {n: np.concatenate([part["cond"][n] for part in parts]) for n in first["cond"]}
        missing = _missing(self.class_names, cond.get(self.label))
        return dataclasses.replace(self, rows=Arrays(x, cond), empty=missing, stored=self.rows)


def _missing(class_names, labels):
    """Numbers of the classes that no label names."""
    return tuple(np.setdiff1d(np.arange(len(class_names)), labels).tolist()) if class_names else ()


@dataclasses.dataclass(frozen=True)
class Arrays:
    """Examples in memory: x [N, ...] and cond {name: [N, ...]}."""

    x: np.ndarray
    cond: dict[str, np.ndarray]

    def __len__(self):
        return len(self.x)

    def fetch(self, indices):
        """See `Source.fetch`."""
        cond = {name: array[indices] for name, array in self.cond.items()}
        return {"x": self.x[indices], "cond": cond}

    def raw(self, indices):
        """See `Source.raw`."""
        return [b"".join(a[n].tobytes() for a in (self.x, *self.cond.values())) for n in indices]


def from_arrays(x, cond=None, class_names=(), origin=""):
    """A Source of arrays in memory, for data kinds from elsewhere.

    Args:
      x: [N, ...], uint8 or float32.
      cond: {condition's name: [N, ...]}.
      class_names: of the condition `label`.
      origin: text that says what they were made of.
    """
    cond = cond or {}
    missing = _missing(class_names, cond.get("label"))
    return Source(Arrays(x, cond), tuple(class_names), missing, origin=origin)


@dataclasses.dataclass(frozen=True)
class Records:
    """Examples in ArrayRecord files.

    Attributes:
      records: TFDS's data source of the split.
      data: the DataConfig: what images are brought to.
      conditions: those that are read.
      shards: (file, number of examples) of each file, in order.
    """

    records: Any
    data: DataConfig
    conditions: tuple
    shards: tuple[tuple[str, int], ...]

    def __len__(self):
        return len(self.records)

    def fetch(self, indices):
        """See `Source.fetch`."""
        rows = self._read(self.records, indices)
        x = np.stack([self._fitted(row["image"], self.data.channels) for row in rows])
        cond = {c.name: self._condition(c, rows, x) for c in self.conditions}
        return {"x": x, "cond": cond}

    def raw(self, indices):
        """See `Source.raw`."""
        from tensorflow_datasets.proto import tf_example_pb2

        for row in self._read(self.records.data_source, indices):
            # The order in which an example's features were written is chance.
            example = tf_example_pb2.Example.FromString(row)
            yield example.SerializeToString(deterministic=True)

    def _fitted(self, image, channels):
        return fit(image, self.data.image_size, channels, self.data.fit)

    def _condition(self, condition, rows, x):
        """The array of a condition: labels, vectors or images of these rows."""
        if _is_low_res(condition, self.data):
            return area_means(x, self.data.low_res_size)
        values = [row[feature_of(condition.name)] for row in rows]
        if isinstance(condition, Label):
            return _labels(condition, values)
        if isinstance(condition, Vector):
            return np.asarray(values, np.float32).reshape(len(rows), -1)
        pairs = zip(values, (row["image"] for row in rows), strict=True)
        return to_float(np.stack([self._aligned(condition, *pair) for pair in pairs]))

    def _aligned(self, condition, value, image):
        """An image of a condition, cropped as the example's own is."""
        if value.shape[:2] == image.shape[:2]:
            return self._fitted(value, condition.channels)
        if image.shape[:2] != (self.data.image_size,) * 2:
            raise UserError(
                f"An example's {condition.name} is {_size(value)} and its image {_size(image)}, so "
                f"they cannot be brought to {self.data.image_size} pixels together: prepare the "
                "dataset with both of one size."
            )
        return value

    def _read(self, records, indices):
        """What the data source or its files hold at these indices; UserError names the file."""
        numbers = [int(i) for i in indices]
        try:
            return records.__getitems__(numbers)
        except MemoryError:
            raise
        except Exception as error:  # readers and decoders raise what they like
            raise UserError(
                f"{self._corrupt(records, numbers)} is missing or corrupt ({_line(error)}): "
                f"restore the file from a copy, or {AGAIN}."
            ) from None

    def _corrupt(self, records, numbers):
        """The file of the first of these examples that cannot be read."""
        for number in numbers:
            try:
                records.__getitems__([number])
            except Exception:
                for file, count in self.shards:
                    if number < count:
                        return file
                    number -= count
        return "A file of the dataset"


def _size(image):
    return "x".join(map(str, image.shape[:2]))


def _is_low_res(condition, data):
    return isinstance(condition, Image) and condition.name == "image" and data.low_res_size > 0


def _labels(condition, values):
    labels = np.asarray(values, np.int32)
    if not 0 <= labels.min() <= labels.max() < condition.classes:
        wrong = labels[(labels < 0) | (labels >= condition.classes)][0]
        raise UserError(
            f"An example of the dataset has the {condition.name} {wrong}, and there are "
            f"{condition.classes} classes: use a split that has labels, or model.conditions = ()."
        )
    return labels


def open_split(data, split, conditions):
    """Opens one split of a dataset.

    Args:
      data: a DataConfig, or settings of a data kind from elsewhere.
      split: such as "train".
      conditions: those of the model; an example's `cond` holds their arrays and no others.

    Returns:
      A `Source`.

    Raises:
      UserError: for a dataset that is unknown or not prepared, and for conditions that it lacks.
    """
    if not isinstance(data, DataConfig):
        return data.open(split, conditions)
    name = data.name or _prepared(data.prepare)
    folder = local_copy(files.parse_path(name, "data.name"))
    builder = open_builder(name, folder)
    if split not in builder.info.splits:
        raise UserError(
            f"The dataset {name} has no split {split}: it has {', '.join(builder.info.splits)}."
        )
    features = dict(builder.info.features.items())
    _check_images(name, features)
    for condition in conditions:
        _check_condition(name, features, condition, data)
    if data.low_res_size and not any(_is_low_res(c, data) for c in conditions):
        raise UserError(
            f"data.low_res_size is {data.low_res_size}, but model.conditions has no Image named "
            f"image: add Image({data.channels}), or set it to 0."
        )
    records = _records(name, builder, split)
    shards = builder.info.splits[split].file_instructions
    rows = Records(records, data, tuple(conditions), tuple((s.filename, s.take) for s in shards))
    origin, counts = _summary(folder)
    if (label := label_of(conditions)) is None:
        return Source(rows, origin=origin)
    names = tuple(features[feature_of(label.name)].names)
    empty = tuple(c for c, count in enumerate(counts.get(split, ())) if not count)
    return Source(rows, names, empty, label.name, origin)


def _prepared(function):
    """The folder of the dataset that an imported function, `module:function`, prepares."""
    prepare = imported(function, "data.prepare")
    folder = in_first(prepare)
    return os.fspath(in_all(lambda: folder or prepare()))


def open_builder(name, folder):
    """TFDS's builder of a folder, or of a name that it knows."""
    import tensorflow_datasets as tfds

    if files.exists(folder / INFO):
        try:
            check_features(files.read_text(folder / FEATURES))
            return tfds.builder_from_directory(os.fspath(folder))
        except Exception as error:  # its files may say anything
            raise _unreadable(name, error) from None
    if files.exists(folder / REQUEST):
        raise UserError(
            f"The preparation of {name} was not finished: repeat its command, which continues it."
        )
    try:
        builder = tfds.builder(name)
        is_prepared = builder.is_prepared()
    except Exception as error:  # TFDS raises what it likes
        raise UserError(
            f"data.name {name[:80]} is neither a dataset that TFDS can open ({_line(error)}) nor a "
            "folder with a prepared one: check the spelling, or make one of npz files or pictures "
            "with `python -m jaxdiff.data.prepare`."
        ) from None
    if not is_prepared:
        raise UserError(
            f"The dataset {name} has not been prepared in {builder.data_path}: "
            f"{_how_to_build(name)}."
        )
    return builder


def _how_to_build(name):
    return (
        f"prepare it with `pip install -e '.[tf]' && tfds build {name} --file_format=array_record`"
    )


def _unreadable(name, error):
    return UserError(f"The dataset {name} cannot be read ({_line(error)}): {AGAIN}.")


def _line(error):
    """The first line of what an exception says."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".:")[:200]


def _check_images(name, features):
    """Refuses a dataset without a feature `image` that is an image."""
    image = features.get("image")
    shape = getattr(image, "shape", None) or ()
    if len(shape) != 3 or shape[2] not in (1, 3, 4) or image.np_dtype != np.uint8:
        raise UserError(
            f"The dataset {name} has no feature `image` of uint8 [H, W, C], C 1, 3 or 4: it has "
            f"{', '.join(features)}; use a dataset of images."
        )


def _check_condition(name, features, condition, data):
    """Refuses a condition that is no feature of the dataset, or one of another size."""
    if _is_low_res(condition, data):
        fits, found = condition.channels == data.channels, f"of {data.channels} channels"
    elif (key := feature_of(condition.name)) not in features:
        fits, found = False, f"not there (it has {', '.join(features)})"
    else:
        feature = features[key]
        fits, found = _fits(condition, feature, features["image"], data), _described(feature)
    if not fits:
        raise UserError(
            f"model.conditions has {condition}, but the feature {feature_of(condition.name)} of "
            f"the dataset {name} is {found}: set the condition to what the dataset has."
        )


def _fits(condition, feature, image, data):
    shape = getattr(feature, "shape", None)
    if shape is None:
        return False
    if isinstance(condition, Label):
        return getattr(feature, "num_classes", None) == condition.classes
    if isinstance(condition, Vector):
        return None not in shape and math.prod(shape) == condition.size
    if isinstance(condition, Image):
        # Of another size than the image, it cannot be cropped with it.
        is_cropped = image.shape[:2] != (data.image_size, data.image_size)
        is_aligned = shape[:2] == image.shape[:2] or not is_cropped
        return len(shape) == 3 and shape[2] == condition.channels and is_aligned
    return False


def _described(feature):
    if (classes := getattr(feature, "num_classes", None)) is not None:
        return f"a label of {classes} classes"
    return f"{getattr(feature, 'np_dtype', '')} {getattr(feature, 'shape', '')}".strip()


def _records(name, builder, split):
    """TFDS's data source of a split."""
    try:
        records = builder.as_data_source(split=split)
    except NotImplementedError:
        raise UserError(
            f"The dataset {name} is not stored as ArrayRecord: {_how_to_build(name)}."
        ) from None
    except Exception as error:  # of what its files say
        raise _unreadable(name, error) from None
    if not len(records):
        raise UserError(f"The split {split} of the dataset {name} has no examples: use another.")
    return records


def _summary(folder):
    """(what it was made of, {split: images of each class}) of a dataset of our own preparing."""
    if not files.exists(folder / SUMMARY):
        return "", {}
    request = files.read_json(folder / REQUEST, ("sources",), advice=AGAIN)
    summary = files.read_json(folder / SUMMARY, ("counts",), advice=AGAIN)
    return json.dumps(request["sources"], sort_keys=True), summary["counts"]
