"""Writing a dataset that `data.name` can open: a TFDS folder of ArrayRecord, without TensorFlow.

What a folder holds, and in which order it comes there:

    request.json                                what was asked for; another request is refused
    NAME-SPLIT.array_record-00000-of-00012      a shard, there when it is whole
    skipped.txt                                 sources that could not be read, if any
    features.json, label.labels.txt             TFDS's description of an example
    summary.json                                examples and images of each class in every split
    dataset_info.json                           the last: it makes the folder a dataset

A shard holds what became of SHARD_SIZE sources in a row, so it depends on nothing else, and a
preparation that was stopped continues from the first shard that is not there.
"""

import collections
import contextlib
import dataclasses
import hashlib
import io
import os
import re
import secrets

import numpy as np

from jaxdiff import files
from jaxdiff.data.dataset import INFO, REQUEST, SUMMARY, Skipped, check_classes, from_arrays
from jaxdiff.errors import UserError
from jaxdiff.progress import progress_bar

SHARD_SIZE = 1024  # sources
SKIPPED = "skipped.txt"
PROGRESS = ".progress"  # what became of each shard, until the dataset is finished
NAME = "[a-z][a-z0-9_]{0,99}"


@dataclasses.dataclass(frozen=True)
class Report:
    """What is in a folder.

    Attributes:
      sizes: {split: number of its examples}.
      counts: {split: how many examples each class has}; empty where there are no classes.
      skipped: how many sources were.
      was_there: whether it was there before.
    """

    sizes: dict[str, int]
    counts: dict[str, list[int]]
    skipped: int
    was_there: bool = True


def prepare_arrays(folder, splits, class_names=()):
    """Writes a dataset of arrays in memory, unless it is there; for functions that prepare data.

    Args:
      folder: of the dataset, which is called as its last component: lower-case letters, numbers and
        underscores.
      splits: {split: {"x": uint8 images [N, H, W, C], "cond": {condition's name: integers [N]
        (only `label`), vectors [N, V], or uint8 images [N, h, w, c]}}}; C and c are 1 or 3.
      class_names: of the labels; by default their numbers.

    Returns:
      The folder as text, for `data.name`.

    Raises:
      UserError: if the folder holds something else or cannot be written, or for other arrays.
    """
    folder = files.parse_path(folder, "The folder of a dataset")
    check_classes(class_names, folder)
    digest = hashlib.sha256()
    for name, arrays in splits.items():
        for key, array in (("x", arrays["x"]), *sorted(arrays["cond"].items())):
            digest.update(f"{name} {key} {np.dtype(array.dtype)} {array.shape}\n".encode())
            digest.update(np.ascontiguousarray(array).data)
    request = {"kind": "arrays", "class_names": class_names, "sources": digest.hexdigest()}
    loaders = {name: (lambda arrays=arrays: arrays) for name, arrays in splits.items()}
    dataset = from_arrays(loaders, class_names, request)
    if not files.exists(folder / INFO):
        try:
            with files.new_folder(folder, last=INFO) as partial:
                write(partial, folder.name, dataset, quiet=True)
        except files.WriteError:
            if not files.exists(folder / INFO):  # written by another program meanwhile
                raise
    _claim(folder, folder.name, dataset)
    return os.fspath(folder)


def write(out, name, dataset, quiet=False):
    """Writes a dataset, or what is missing of it.

    Args:
      out: its folder: new, empty, or with what the same request has written so far.
      name: of the dataset; lower-case letters, numbers and underscores.
      dataset: a `Dataset`.
      quiet: whether to show no progress.

    Returns:
      A `Report`.

    Raises:
      UserError: if the folder holds something else or cannot be written, a name cannot be used, or
        a split has no readable image; if another program writes there.
    """
    # It imports JAX, which processes that read images need not.
    from jaxdiff.locks import LOCK, own_lock

    _check_names(name, dataset)
    if files.exists(out / INFO):  # perhaps where nothing can be written
        return _there(out, name, dataset)
    files.make_folder(out)
    with own_lock(out / LOCK, f"The folder {out}"):
        if files.exists(out / INFO):
            return _there(out, name, dataset)
        return _write(out, name, dataset, quiet)


def _there(out, name, dataset):
    """The Report of a folder that is finished."""
    _claim(out, name, dataset)
    return Report(**files.read_json(out / SUMMARY, advice=f"remove {out} and prepare it again"))


def _write(out, name, dataset, quiet):
    _claim(out, name, dataset)
    lengths, counts, skipped = _write_shards(out, name, dataset, quiet)
    if skipped:
        lines = (f"{each.source}: {each.reason}".replace("\n", "\\n") + "\n" for each in skipped)
        files.write_bytes(out / SKIPPED, "".join(lines).encode("utf-8", "surrogateescape"))
    for split in dataset.splits:
        if not sum(lengths[split.name]):
            raise UserError(
                f"None of the {split.size} images of the split {split.name} can be read, as "
                f"{out / SKIPPED} says: repair them, remove {out} and repeat the command."
            )
    sizes = {split: sum(shards) for split, shards in lengths.items()}
    report = Report(sizes, counts, len(skipped))
    files.write_json(out / SUMMARY, dataclasses.asdict(report))
    _write_info(out, name, dataset, lengths)
    files.remove_tree(out / PROGRESS)
    return dataclasses.replace(report, was_there=False)


def _check_names(name, dataset):
    if not re.fullmatch(NAME, name):
        raise UserError(
            f"The name of the dataset is {name[:80]}: it must be at most 100 lower-case letters, "
            "numbers and underscores, such as my_photographs."
        )
    for split in dataset.splits:
        if not re.fullmatch(r"[A-Za-z0-9_]{1,100}", split.name):
            raise UserError(
                f"{split.name[:80]} is no name of a split, which is letters, numbers and "
                "underscores, such as train: rename its file."
            )


def _claim(out, name, dataset):
    """Makes the folder that of this dataset, or finds that it is."""
    from jaxdiff.claims import check_same

    request = {"name": name, **dataset.request, "shard_size": SHARD_SIZE}
    if files.exists(out / REQUEST):
        advice = f"remove {out} and repeat the command"
        check_same(out, files.read_json(out / REQUEST, advice=advice), request)
        return
    if any(not name.startswith(".") for name in files.names(out)):
        raise UserError(f"{out} is not empty, and nothing is overwritten: choose another folder.")
    files.write_json(out / REQUEST, request)


def _write_shards(out, name, dataset, quiet):
    """Writes the shards that are not there.

    Returns:
      ({split: lengths of its shards}, {split: images of each class}, all that was skipped).
    """
    serialize = _serializer(dataset)
    lengths, skipped = {split.name: [] for split in dataset.splits}, []
    counts = {split.name: [0] * len(dataset.classes) for split in dataset.splits}
    with progress_bar(sum(split.size for split in dataset.splits), "image", quiet=quiet) as bar:
        for split in dataset.splits:
            for number, file in enumerate(_shard_files(out, name, split)):
                start = number * SHARD_SIZE
                count = min(SHARD_SIZE, split.size - start)
                note = out / PROGRESS / f"{file.name}.json"
                if files.exists(note):
                    bar.initial += count  # else the time left would be judged by its speed
                    bar.update(count)
                else:
                    items = _counted(split.read(start, start + count), bar)
                    files.write_json(note, _write_shard(file, note, items, serialize))
                known = files.read_json(note)
                skipped += [Skipped(*pair) for pair in known["skipped"]]
                lengths[split.name].append(count - len(known["skipped"]))
                for label, images in known["labels"].items():
                    counts[split.name][int(label)] += images
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


def _write_shard(file, note, items, serialize):
    """Writes a shard; {"skipped": [[source, reason]], "labels": {label: images}} of it."""
    from array_record.python.array_record_module import ArrayRecordWriter

    skipped, labels = [], collections.Counter()
    partial = note.parent / secrets.token_hex(8)
    files.make_folder(note.parent)
    with _writing(file):
        writer = ArrayRecordWriter(os.fspath(partial), "group_size:1")  # read one at a time
    for item in items:
        if isinstance(item, Skipped):
            skipped.append([item.source, item.reason])
            continue
        if "label" in item:
            labels[str(item["label"])] += 1
        with _writing(file):
            writer.write(serialize(item))
    with _writing(file):
        writer.close()
    files.remove(file)  # of a program that was killed before it wrote the note
    files.move(partial, file)
    return {"skipped": skipped, "labels": labels}


@contextlib.contextmanager
def _writing(file):
    """Raises what ArrayRecord's writer makes of the disk's errors as a WriteError."""
    with files.writing(file):
        try:
            yield
        except RuntimeError as error:
            raise OSError(None, str(error).split(";")[0]) from None


def _features(dataset):
    from tensorflow_datasets import features

    def feature(shape):
        if len(shape) == 3:
            return features.Image(shape=shape, encoding_format="png")
        if shape:
            return features.Tensor(shape=shape, dtype=np.float32)
        return features.ClassLabel(names=dataset.classes)

    return features.FeaturesDict({name: feature(s) for name, s in dataset.shapes.items()})


def _serializer(dataset):
    """A function from {feature: PNG bytes, label or vector} to the bytes of a record."""
    from tensorflow_datasets.core.example_serializer import ExampleSerializer

    features = _features(dataset)
    serializer = ExampleSerializer(features.get_serialized_info())

    def serialize(example):
        # PNG as a file, which TFDS takes as it is; an array it would encode with TensorFlow.
        example = {k: io.BytesIO(v) if isinstance(v, bytes) else v for k, v in example.items()}
        message = serializer.get_tf_example(features.encode_example(example))
        # Else the features' order differs from process to process.
        return message.SerializeToString(deterministic=True)

    return serialize


def _write_info(out, name, dataset, lengths):
    """Writes TFDS's description of the dataset, dataset_info.json last."""
    import tensorflow_datasets as tfds

    identity = tfds.core.DatasetIdentity(
        name=name, version=tfds.core.Version("1.0.0"), data_dir=os.fspath(out), module_name=""
    )
    keys = ("image", "label") if dataset.classes else None
    features = _features(dataset)
    info = tfds.core.DatasetInfo(builder=identity, features=features, supervised_keys=keys)
    info.set_file_format("array_record")
    splits = [
        tfds.core.SplitInfo(
            name=split.name,
            shard_lengths=lengths[split.name],
            num_bytes=sum(map(files.size, _shard_files(out, name, split))),
            filename_template=tfds.core.ShardedFileTemplate(
                data_dir=out, dataset_name=name, split=split.name, filetype_suffix="array_record"
            ),
        )
        for split in dataset.splits
    ]
    info.set_splits(tfds.core.splits.SplitDict(splits))
    with files.writing(out):
        features.save_config(os.fspath(out))
    files.write_text(out / INFO, info.as_json)
