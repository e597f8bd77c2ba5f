"""Writing a dataset that `data.name` can open: a TFDS folder of ArrayRecord, without TensorFlow.

What a folder holds, and in which order it comes there:

    request.json                                what was asked for; another request is refused
    NAME-SPLIT.array_record-00000-of-00012      a shard, renamed when it is whole
    skipped.txt                                 sources that could not be read, if any
    features.json, label.labels.txt             TFDS's description of an example
    dataset_info.json                           the last: it makes the folder a dataset

A shard holds what became of SHARD_SIZE sources in a row, so it depends on nothing else, and a
preparation that was stopped goes on from the first shard that is not there.
"""

import collections
import contextlib
import dataclasses
import io
import json
import pathlib
import re
import shutil
from collections.abc import Callable, Iterator

from PIL import Image

from jaxdiff.errors import UserError
from jaxdiff.progress import progress_bar

SHARD_SIZE = 1024  # sources
REQUEST, INFO, SKIPPED = "request.json", "dataset_info.json", "skipped.txt"
PROGRESS = ".progress"  # what was skipped in each shard, until the dataset is finished


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A source that is no readable image: its name, and why."""

    source: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Split:
    """A split that can be written.

    Attributes:
      name: such as "train"; letters, digits and underscores.
      size: number of its sources, readable or not.
      read: (start, stop) -> iterator over what becomes of these sources: (PNG bytes, label), or a
        `Skipped`. The label is an int, and unused where the dataset has no classes.
    """

    name: str
    size: int
    read: Callable[[int, int], Iterator]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A dataset that can be written.

    Attributes:
      splits: its splits.
      shape: (height, width, channels) of every image.
      classes: names of the labels, in order; empty where there are none.
      request: JSON values that say what its examples are: settings, and a checksum of the sources.
    """

    splits: tuple[Split, ...]
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    request: dict


@dataclasses.dataclass(frozen=True)
class Report:
    """What is in a folder: examples by split, sources skipped, and whether it was there before."""

    sizes: dict[str, int]
    skipped: tuple[Skipped, ...]
    was_there: bool


def png(image):
    """The bytes of a PNG file of a uint8 image [H, W, C], C 1 or 3."""
    file = io.BytesIO()
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(file, "png")
    return file.getvalue()


def check_classes(names, where):
    """Raises UserError for names that TFDS's file of them, a name a line, cannot keep."""
    for name in names:
        if name != name.strip() or not name or len(name.splitlines()) > 1:
            raise UserError(
                f"{where} has a class named {name!r}: a name is one line of text, without blanks "
                "at its ends; rename it."
            )
    if repeated := [name for name, count in collections.Counter(names).items() if count > 1]:
        raise UserError(f"{where} has several classes named {repeated[0]}: give them other names.")


def write(out, name, dataset):
    """Writes a dataset, or what is missing of it.

    Args:
      out: its folder: new, empty, or with what the same request has written so far.
      name: of the dataset; lower-case letters, digits and underscores.
      dataset: a `Dataset`.

    Returns:
      A `Report`.

    Raises:
      UserError: if the folder holds something else or cannot be written, a name cannot be used, or
        a split has no readable image.
    """
    _check_names(name, dataset)
    out = pathlib.Path(out)
    request = {"name": name, **dataset.request, "shard_size": SHARD_SIZE}
    with _writing(out):
        _claim(out, request)
        if was_there := (out / INFO).exists():
            shutil.rmtree(out / PROGRESS, ignore_errors=True)
            return Report(*_read_report(out), was_there)
        lengths, skipped = _write_shards(out, name, dataset)
        if skipped:
            _write_text(out / SKIPPED, "".join(map(_line, skipped)))
        for split in dataset.splits:
            if not sum(lengths[split.name]):
                raise UserError(
                    f"None of the {split.size} images of the split {split.name} can be read, as "
                    f"{out / SKIPPED} tells: mend them, remove {out} and begin anew."
                )
        _write_info(out, name, dataset, lengths)
        shutil.rmtree(out / PROGRESS, ignore_errors=True)
    sizes = {split: sum(shards) for split, shards in lengths.items()}
    return Report(sizes, tuple(skipped), was_there)


def _check_names(name, dataset):
    if not re.fullmatch("[a-z][a-z0-9_]*", name):
        raise UserError(
            f"--name is {name}: it must be lower-case letters, digits and underscores, such as "
            "my_photographs."
        )
    for split in dataset.splits:
        if not re.fullmatch(r"\w+", split.name, re.ASCII):
            raise UserError(
                f"The split {split.name} cannot be called so: a split's name is letters, digits "
                "and underscores, such as train; rename its file."
            )


@contextlib.contextmanager
def _writing(out):
    """Says in a sentence what the disk refuses."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"{out} cannot be written ({reason}): change that, or choose another --out; the same "
            "command continues."
        ) from None


def _claim(out, request):
    """Makes the folder this request's, or finds that it is."""
    file = out / REQUEST
    if not file.exists():
        if out.exists() and any(p.name != f".{REQUEST}.partial" for p in out.iterdir()):
            raise UserError(
                f"{out} is not empty, and nothing is overwritten: choose another --out."
            )
        out.mkdir(parents=True, exist_ok=True)
        _write_text(file, json.dumps(request, indent=2) + "\n")
        return
    try:
        old = dict(json.loads(file.read_text()))
    except (ValueError, TypeError):
        raise UserError(f"{file} is damaged: remove {out} and begin anew.") from None
    names = list(dict.fromkeys([*request, *old]))
    if different := [key for key in names if old.get(key) != request.get(key)]:
        raise UserError(
            f"{out} holds the dataset of another request, with another {', '.join(different)}: "
            "choose another --out."
        )


def _read_report(out):
    """Sizes of splits and what was skipped, of a finished dataset."""
    splits = json.loads((out / INFO).read_text())["splits"]
    sizes = {split["name"]: sum(map(int, split["shardLengths"])) for split in splits}
    text = ""
    if (out / SKIPPED).exists():
        text = (out / SKIPPED).read_text("utf-8", "surrogateescape")
    return sizes, tuple(Skipped(*line.partition(": ")[::2]) for line in text.splitlines())


def _line(skipped):
    source = skipped.source.replace("\n", "\\n")
    return f"{source}: {skipped.reason}\n"


def _write_shards(out, name, dataset):
    """Writes the shards that are not there; returns lengths by split, and all that was skipped."""
    (out / PROGRESS).mkdir(exist_ok=True)
    serialize = _serializer(dataset)
    lengths, skipped = {split.name: [] for split in dataset.splits}, []
    with progress_bar(sum(split.size for split in dataset.splits), "image") as bar:
        for split in dataset.splits:
            for number, file in enumerate(_shard_files(out, name, split)):
                start = number * SHARD_SIZE
                count = min(SHARD_SIZE, split.size - start)
                note = out / PROGRESS / f"{split.name}-{number:05d}.json"
                lost = _skipped_in(file, note, count)
                if lost is None:
                    items = _counted(split.read(start, start + count), bar)
                    lost = _write_shard(file, note, items, serialize)
                else:
                    bar.initial += count  # else the time left would be told from its speed
                    bar.update(count)
                skipped += lost
                lengths[split.name].append(count - len(lost))
    return lengths, skipped


def _counted(items, bar):
    for item in items:
        yield item
        bar.update()


def _shard_files(out, name, split):
    count = -(-split.size // SHARD_SIZE)
    return [
        out / f"{name}-{split.name}.array_record-{number:05d}-of-{count:05d}"
        for number in range(count)
    ]


def _skipped_in(file, note, count):
    """What was skipped in a shard that is there and whole, else None."""
    from array_record.python.array_record_module import ArrayRecordReader

    try:
        skipped = [Skipped(*pair) for pair in json.loads(note.read_text())]
        if not file.exists():
            return None
        reader = ArrayRecordReader(str(file))
        records = reader.num_records()
        reader.close()
    except (OSError, ValueError, TypeError, RuntimeError):  # as a crash of the machine leaves them
        return None
    return skipped if records + len(skipped) == count else None


def _write_shard(file, note, items, serialize):
    """Writes a shard and the note of what was skipped in it, which it returns."""
    from array_record.python.array_record_module import ArrayRecordWriter

    partial = file.with_name(f".{file.name}.partial")
    skipped = []
    with _as_os_error():
        writer = ArrayRecordWriter(str(partial), "group_size:1")  # records are read one at a time
    for item in items:
        if isinstance(item, Skipped):
            skipped.append(item)
        else:
            with _as_os_error():
                writer.write(serialize(*item))
    with _as_os_error():
        writer.close()
    _write_text(note, json.dumps([[s.source, s.reason] for s in skipped]))
    partial.replace(file)
    return skipped


@contextlib.contextmanager
def _as_os_error():
    """What ArrayRecord's writer makes of the system's errors, as what they are."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(str(error).split(";")[0]) from None


def _features(dataset):
    import tensorflow_datasets as tfds

    features = {"image": tfds.features.Image(shape=dataset.shape, encoding_format="png")}
    if dataset.classes:
        features["label"] = tfds.features.ClassLabel(names=dataset.classes)
    return tfds.features.FeaturesDict(features)


def _serializer(dataset):
    """A function from (PNG bytes, label) to the bytes of a record."""
    from tensorflow_datasets.core.example_serializer import ExampleSerializer

    features = _features(dataset)
    serializer = ExampleSerializer(features.get_serialized_info())

    def serialize(image, label):
        # As a file, which TFDS takes as it is; an array it would encode with TensorFlow.
        example = {"image": io.BytesIO(image)}
        if dataset.classes:
            example["label"] = int(label)
        message = serializer.get_tf_example(features.encode_example(example))
        # Else the features' order differs from process to process.
        return message.SerializeToString(deterministic=True)

    return serialize


def _write_info(out, name, dataset, lengths):
    """Writes TFDS's description of the dataset, aside first, and dataset_info.json last."""
    import tensorflow_datasets as tfds

    identity = tfds.core.DatasetIdentity(
        name=name, version=tfds.core.Version("1.0.0"), data_dir=str(out), module_name=""
    )
    keys = ("image", "label") if dataset.classes else None
    info = tfds.core.DatasetInfo(
        builder=identity, features=_features(dataset), supervised_keys=keys
    )
    info.set_file_format("array_record")
    splits = [
        tfds.core.SplitInfo(
            name=split.name,
            shard_lengths=lengths[split.name],
            num_bytes=sum(file.stat().st_size for file in _shard_files(out, name, split)),
            filename_template=tfds.core.ShardedFileTemplate(
                data_dir=out, dataset_name=name, split=split.name, filetype_suffix="array_record"
            ),
        )
        for split in dataset.splits
    ]
    info.set_splits(tfds.core.splits.SplitDict(splits))
    aside = out / PROGRESS / "info"
    aside.mkdir(exist_ok=True)
    info.write_to_directory(aside)
    for file in sorted(aside.iterdir(), key=lambda file: file.name == INFO):
        file.replace(out / file.name)


def _write_text(path, text):
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, "utf-8", "surrogateescape")  # names of files may be any bytes
    partial.replace(path)
