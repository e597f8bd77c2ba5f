"""Datasets as arrays by index: any TFDS dataset in ArrayRecord files, read without TensorFlow.

Points are data as well: `toy_a` and `toy_ab` are those of jaxdiff.data.toy, drawn when opened.
"""

import dataclasses
import json
from typing import Any

import numpy as np

from jaxdiff.data.dataset import shortened
from jaxdiff.data.images import fit
from jaxdiff.data.prepared import INFO, REQUEST, read_summary
from jaxdiff.errors import UserError
from jaxdiff.files import local_path, read_json
from jaxdiff.parallel import processes

IN_MEMORY_BYTES = 256 * 2**20
CHUNK = 1024
REPEAT = "prepare the dataset again"  # advice about a damaged one
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
      empty: numbers of the classes that have no example, where that is known.
      stored: len and __getitems__(indices) -> bytes, the examples as they are stored; None: not.
      shards: (file, number of examples) of each file that holds them, in order.
      origin: text that says what the examples were made of, as far as that is known.
    """

    records: object
    size: int
    image_size: int
    channels: int
    label_names: tuple[str, ...]
    fit: str = "crop"
    empty: tuple[int, ...] = ()
    stored: Any = None
    shards: tuple[tuple[str, int], ...] = ()
    origin: str = ""

    def __len__(self):
        return self.size

    def fetch(self, indices):
        """Returns {"image": uint8 [n, H, W, C], "label": int32 [n]} of these examples.

        Points come under the same name, float32 [n, D].

        Raises:
          UserError: if a file is missing or damaged, or an example has a label of no class.
        """
        if isinstance(self.records, dict):
            return {name: array[indices] for name, array in self.records.items()}
        rows = self.read(self.records, indices)
        shape = (self.image_size, self.channels, self.fit)
        images = np.stack([fit(row["image"], *shape) for row in rows])
        if not self.label_names:
            return {"image": images, "label": np.zeros(len(rows), np.int32)}
        labels = np.asarray([row["label"] for row in rows], np.int32)
        if not 0 <= labels.min() <= labels.max() < len(self.label_names):
            wrong = labels[(labels < 0) | (labels >= len(self.label_names))][0]
            raise UserError(
                f"An example of the dataset has the label {wrong}, and there are "
                f"{len(self.label_names)} classes: prepare another, or set data.num_classes to 0."
            )
        return {"image": images, "label": labels}

    def read(self, records, indices):
        """What `records` or `stored` hold at these indices.

        Raises:
          UserError: if that cannot be read, which names the file.
        """
        numbers = [int(i) for i in indices]
        try:
            return records.__getitems__(numbers)
        except MemoryError:
            raise
        except Exception as error:  # readers and decoders raise what they like
            raise UserError(
                f"{self._damaged(records, numbers)} is missing or damaged ({_first_line(error)}): "
                "restore the file from a copy, or prepare the dataset again."
            ) from None

    def _damaged(self, records, numbers):
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
        missing = np.setdiff1d(np.arange(len(self.label_names)), arrays["label"])
        return dataclasses.replace(self, records=arrays, empty=tuple(missing.tolist()))


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
    _check_images(name, builder.info.features)
    names = _label_names(name, builder.info.features) if num_classes else ()
    origin, counts = _prepared(name, names)
    if num_classes != len(names):
        raise UserError(
            f"data.num_classes is {num_classes}, but the dataset {name} has {len(names)} classes: "
            f"set it to {len(names)}, or to 0 to ignore labels."
        )
    if split not in builder.info.splits:
        raise UserError(
            f"The dataset {name} has no split {split}: it has {', '.join(builder.info.splits)}."
        )
    records = _records(name, builder, split)
    empty = tuple(c for c, count in enumerate(counts.get(split, ())) if not count)
    return Source(
        records,
        len(records),
        image_size,
        channels,
        names,
        fit,
        empty=empty if names else (),
        stored=records.data_source,
        shards=_shards(builder, split),
        origin=origin,
    )


def _label_names(name, features):
    """Names of the classes; none where there are no labels."""
    if "label" not in features:
        return ()
    label = features["label"]
    names = tuple(getattr(label, "names", None) or ())
    if not names:
        raise UserError(
            f"The label of the dataset {name} is {type(label).__name__} and no ClassLabel with "
            "classes: set data.num_classes to 0, which ignores it."
        )
    return names


def _check_images(name, features):
    if "image" not in features:
        raise UserError(
            f"The dataset {name} has the features {', '.join(features)} and no image: "
            "set data.name to a dataset of images."
        )
    shape, dtype = (getattr(features["image"], field, None) for field in ("shape", "np_dtype"))
    if dtype != np.uint8 or len(shape or ()) != 3 or shape[2] not in (1, 3, 4):
        raise UserError(
            f"The images of the dataset {name} are {dtype} {shape}, where uint8 [H, W, C] with C 1 "
            "to 4 was expected: set data.name to a dataset of such images."
        )


def _records(name, builder, split):
    """TFDS's data source of a split."""
    try:
        records = builder.as_data_source(split=split)
    except NotImplementedError:
        raise UserError(
            f"The dataset {name} is not stored as ArrayRecord: {_how_to_prepare(name)}."
        ) from None
    except Exception as error:  # of what its files say
        raise _unreadable(name, error) from None
    if not len(records):
        raise UserError(f"The split {split} of the dataset {name} has no examples: use another.")
    return records


def _shards(builder, split):
    instructions = builder.info.splits[split].file_instructions
    return tuple((str(each.filename), each.take) for each in instructions)


def _prepared(name, names):
    """(what it was made of, {split: images of each class}) of a dataset of our own preparing.

    Args:
      name: of the dataset.
      names: of its classes, as TFDS reads them; empty if they are to be ignored.
    """
    folder = local_path(name, "data.name")
    if name == "digits" or not (folder / REQUEST).exists():
        return "", {}
    request = read_json(folder / REQUEST, ("sources",), checksum=None, advice=REPEAT)
    origin = json.dumps(request["sources"], sort_keys=True)
    summary = read_summary(folder)
    if summary is None:
        return origin, {}
    prepared_names, counts = summary
    if names and names != prepared_names:
        raise UserError(
            f"label.labels.txt in {folder} is missing or damaged, as it does not hold the names of "
            f"the classes: {REPEAT}."
        )
    return origin, counts


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
    return Source(
        records,
        len(points),
        image_size=1,
        channels=points.shape[1],
        label_names=(),
        origin=f"{name} {split} {toy.SPLITS[split]}",
    )


def _how_to_prepare(name):
    return (
        f"prepare it with `pip install -e '.[tf]' && tfds build {name} --file_format=array_record`"
    )


def _builder(name):
    import tensorflow_datasets as tfds

    if name == "digits":
        return processes.first_then_rest(_prepare_digits)
    folder = local_path(name, "data.name")
    try:
        is_folder, is_begun = (folder / INFO).exists(), (folder / REQUEST).exists()
    except (OSError, ValueError):  # no name of a folder: it is too long, or holds a zero
        is_folder, is_begun = False, False
    if is_folder:
        return _from_folder(name, folder)
    if is_begun:
        raise UserError(
            f"The preparation of {name} was not finished: repeat its command, which continues it."
        )
    try:
        builder = tfds.builder(name)
        is_prepared = builder.is_prepared()
    except Exception as error:  # a name may be that of a program, and TFDS asserts what it likes
        raise UserError(
            f"data.name {shortened(name)} is neither a dataset that TFDS can open "
            f"({_first_line(error)}) nor a folder with a prepared one: check the spelling against "
            "https://www.tensorflow.org/datasets/catalog, or make one of npz files or pictures "
            "with `python -m jaxdiff.data.prepare`."
        ) from None
    if not is_prepared:
        raise UserError(
            f"The dataset {name} has not been prepared in {builder.data_path}: "
            f"{_how_to_prepare(name)}."
        )
    return builder


def _from_folder(name, folder):
    import tensorflow_datasets as tfds

    for file, keys in ((INFO, ("name", "splits", "version")), ("features.json", ())):
        read_json(folder / file, keys, checksum=False, advice=REPEAT)
    try:
        builder = tfds.builder_from_directory(str(folder))
        if not isinstance(builder.info.features, tfds.features.FeaturesDict):
            raise ValueError("an example is no dict of features")
        return builder
    except Exception as error:  # what the two files say may be anything
        raise _unreadable(name, error) from None


def _unreadable(name, error):
    return UserError(
        f"{INFO} or features.json of the dataset {name} is damaged ({_first_line(error)}): "
        f"{REPEAT}."
    )


def _first_line(error):
    """What an exception says, as a part of a sentence."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return shortened(lines[0].rstrip(".:"), 200) if lines else type(error).__name__


def _prepare_digits():
    from jaxdiff.data.digits import Digits

    try:
        builder = Digits(file_format="array_record")
        builder.download_and_prepare()
    except OSError as error:
        raise UserError(
            f"The digits cannot be written ({error.strerror or error}): set the environment "
            "variable TFDS_DATA_DIR to a folder that can be written."
        ) from None
    except Exception as error:  # what its files say may be anything
        raise UserError(
            f"The digits that were prepared in TFDS_DATA_DIR, or ~/tensorflow_datasets, cannot be "
            f"read ({_first_line(error)}): remove the folder digits there."
        ) from None
    return builder
