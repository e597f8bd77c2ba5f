"""Writing a dataset that `data.name` can open: a TFDS folder of ArrayRecord, without TensorFlow.

What a folder holds, and in which order it comes there:

    request.json                                what was asked for; another request is refused
    NAME-SPLIT.array_record-00000-of-00012      a shard, renamed when it is whole
    skipped.txt                                 sources that could not be read, if any
    features.json, label.labels.txt             TFDS's description of an example
    summary.json                                images of each class and split
    dataset_info.json                           the last: it makes the folder a dataset

A shard holds what became of SHARD_SIZE sources in a row, so it depends on nothing else, and a
preparation that was stopped goes on from the first shard that is not there.
"""

import collections
import contextlib
import io
import pathlib
import re
import shutil

from jaxdiff.data.dataset import Report, Skipped, shortened
from jaxdiff.errors import UserError
from jaxdiff.files import read_json, replacing, write_json
from jaxdiff.progress import progress_bar

SHARD_SIZE = 1024  # sources
REQUEST, INFO, SKIPPED = "request.json", "dataset_info.json", "skipped.txt"
SUMMARY = "summary.json"  # {"classes": names, "counts": {split: [images of each class]}}
PROGRESS = ".progress"  # what was skipped in each shard, until the dataset is finished
LONGEST_NAME = 100  # letters of names that become names of files


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
    # It imports JAX, which processes that read images need not.
    from jaxdiff.locks import LOCK, held

    with _writing(out):
        out.mkdir(parents=True, exist_ok=True)
        with held(out / LOCK, f"The folder {out}"):
            _claim(out, request, LOCK)
            if (out / INFO).exists():
                shutil.rmtree(out / PROGRESS, ignore_errors=True)
                return _read_report(out, dataset)
            return _write(out, name, dataset)


def _write(out, name, dataset):
    lengths, counts, skipped = _write_shards(out, name, dataset)
    if skipped:
        _write_text(out / SKIPPED, "".join(map(_line, skipped)))
    for split in dataset.splits:
        if not sum(lengths[split.name]):
            raise UserError(
                f"None of the {split.size} images of the split {split.name} can be read, as "
                f"{out / SKIPPED} says: repair them, remove {out} and repeat the command."
            )
    for partial in out.glob(".*.partial"):  # of programs that were killed
        partial.unlink()
    write_json(out / SUMMARY, {"classes": list(dataset.classes), "counts": counts})
    _write_info(out, name, dataset, lengths)
    shutil.rmtree(out / PROGRESS, ignore_errors=True)
    sizes = {split: sum(shards) for split, shards in lengths.items()}
    return _report(dataset, sizes, skipped, counts, was_there=False)


def _report(dataset, sizes, skipped, counts, was_there):
    known = (dataset.classes, counts, dataset.shape, dataset.notes)
    return Report(sizes, tuple(skipped), was_there, *known)


def _check_names(name, dataset):
    if not re.fullmatch("[a-z][a-z0-9_]*", name) or len(name) > LONGEST_NAME:
        raise UserError(
            f"--name is {shortened(name)}: it must be at most {LONGEST_NAME} lower-case letters, "
            "digits and underscores, such as my_photographs."
        )
    for split in dataset.splits:
        if not re.fullmatch(r"\w+", split.name, re.ASCII) or len(split.name) > LONGEST_NAME:
            raise UserError(
                f"The split {shortened(split.name)} cannot be called so: a split's name is "
                f"letters, digits and underscores, at most {LONGEST_NAME}, such as train; rename "
                "its file."
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


def _claim(out, request, lock):
    """Makes the folder this request's, or finds that it is."""
    file = out / REQUEST
    if not file.exists():
        if any(p.name != lock and not _is_partial(p.name) for p in out.iterdir()):
            raise UserError(
                f"{out} is not empty, and nothing is overwritten: choose another --out."
            )
        write_json(file, request)
        return
    old = read_json(file, checksum=None, advice=f"remove {out} and repeat the command")
    names = list(dict.fromkeys([*request, *old]))
    if different := [key for key in names if old.get(key) != request.get(key)]:
        raise UserError(
            f"{out} holds the dataset of another request, with another {', '.join(different)}: "
            "choose another --out."
        )


def _is_partial(name):
    """Whether a file is what was left of a request that a killed program was writing."""
    return name.startswith(f".{REQUEST}.") and name.endswith(".partial")


def read_summary(out):
    """(names of the classes, {split: [images of each class]}) of a dataset that `write` finished.

    Of one that an earlier version has written, which does not say, None.

    Raises:
      UserError: if the file is damaged.
    """
    file = out / SUMMARY
    if not file.exists():
        return None
    values = read_json(file, ("classes", "counts"), advice=f"prepare {out} again")
    return tuple(values["classes"]), values["counts"]


def _read_report(out, dataset):
    """The Report of a finished dataset."""
    advice = f"remove {out} and repeat the command"
    info = read_json(out / INFO, ("splits",), checksum=False, advice=advice)
    try:
        sizes = {split["name"]: sum(map(int, split["shardLengths"])) for split in info["splits"]}
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{out / INFO} does not describe a dataset: {advice}.") from None
    text = ""
    if (out / SKIPPED).exists():
        text = (out / SKIPPED).read_text("utf-8", "surrogateescape")
    skipped = [Skipped(*line.partition(": ")[::2]) for line in text.splitlines()]
    _, counts = read_summary(out) or ((), {})
    return _report(dataset, sizes, skipped, counts, was_there=True)


def _line(skipped):
    source = skipped.source.replace("\n", "\\n")
    return f"{source}: {skipped.reason}\n"


def _write_shards(out, name, dataset):
    """Writes the shards that are not there.

    Returns:
      ({split: lengths of its shards}, {split: images of each class}, all that was skipped).
    """
    (out / PROGRESS).mkdir(exist_ok=True)
    serialize = _serializer(dataset)
    lengths, skipped = {split.name: [] for split in dataset.splits}, []
    counts = {split.name: [0] * len(dataset.classes) for split in dataset.splits}
    with progress_bar(sum(split.size for split in dataset.splits), "image") as bar:
        for split in dataset.splits:
            for number, file in enumerate(_shard_files(out, name, split)):
                start = number * SHARD_SIZE
                count = min(SHARD_SIZE, split.size - start)
                note = out / PROGRESS / f"{split.name}-{number:05d}.json"
                known = _read_note(file, note, count)
                if known is None:
                    items = _counted(split.read(start, start + count), bar)
                    known = _write_shard(file, note, items, serialize)
                else:
                    bar.initial += count  # else the time left would be judged by its speed
                    bar.update(count)
                lost, labels = known
                skipped += lost
                lengths[split.name].append(count - len(lost))
                if dataset.classes:
                    for label, number in labels.items():
                        counts[split.name][label] += number
    return lengths, counts if dataset.classes else {}, skipped


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


def _read_note(file, note, count):
    """(what was skipped, {label: images}) of a shard that is there and whole, else None."""
    from array_record.python.array_record_module import ArrayRecordReader

    try:
        values = read_json(note, ("skipped", "labels"))
        skipped = [Skipped(*pair) for pair in values["skipped"]]
        if not file.exists():
            return None
        reader = ArrayRecordReader(str(file))
        records = reader.num_records()
        reader.close()
    except (OSError, ValueError, TypeError, RuntimeError):  # as a crash of the machine leaves them
        return None
    if records + len(skipped) != count:
        return None
    return skipped, {int(label): number for label, number in values["labels"].items()}


def _write_shard(file, note, items, serialize):
    """Writes a shard and its note: (what was skipped in it, {label: images})."""
    from array_record.python.array_record_module import ArrayRecordWriter

    skipped, labels = [], collections.Counter()
    with replacing(file) as partial:
        with _as_os_error():
            writer = ArrayRecordWriter(str(partial), "group_size:1")  # read one at a time
        for item in items:
            if isinstance(item, Skipped):
                skipped.append(item)
            else:
                labels[int(item[1])] += 1
                with _as_os_error():
                    writer.write(serialize(*item))
        with _as_os_error():
            writer.close()
        pairs = [[source.source, source.reason] for source in skipped]
        write_json(note, {"skipped": pairs, "labels": {str(k): n for k, n in labels.items()}})
    return skipped, labels


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
    with replacing(path) as partial:
        partial.write_text(text, "utf-8", "surrogateescape")  # names of files may be any bytes
