"""ImageNet (ILSVRC2012): its classes, their numbers and words, and how many pictures there are.

A class is called by its wnid, the number of a synset of WordNet, such as n01440764, and classes
are numbered from 0 in the order of the sorted wnids, as ADM, torchvision and TFDS's imagenet2012
do. The development kit and the downsampled npz files number them otherwise, by ILSVRC2012_ID from
1: the kit fox, n02119789, is 1.
"""

import contextlib
import csv
import dataclasses
import gzip
import io
import re
import tarfile
import zlib

import numpy as np

from jaxdiff import files
from jaxdiff.data.layout import some
from jaxdiff.errors import UserError

CLASSES = 1000
SIZES = {"train": 1_281_167, "validation": 50_000}
PER_CLASS = {"train": (732, 1300), "validation": (50, 50)}
FEW = 20  # classes: where no more are missing, they are named
WNID = r"n\d{8}"
META, TRUTH = "data/meta.mat", "data/ILSVRC2012_validation_ground_truth.txt"
SOLUTION = "LOC_val_solution.csv"
LISTS = ("map_clsloc.txt", "LOC_synset_mapping.txt")
WORDS = "synset_words.txt"  # which is written beside the data


@dataclasses.dataclass(frozen=True)
class Kit:
    """What is known of the classes beside the pictures.

    Attributes:
      numbers: {wnid: ILSVRC2012_ID} of the 1,000 classes.
      words: {wnid: words such as "tench, Tinca tinca"}; empty where no file says them.
      counts: {wnid: number of training pictures}; empty where it is not known.
      truth: {name of a validation picture without its ending: wnid}; empty where it is not known.
    """

    numbers: dict[str, int]
    words: dict[str, str] = dataclasses.field(default_factory=dict)
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    truth: dict[str, str] = dataclasses.field(default_factory=dict)


def read_kit(paths):
    """A Kit of the files that say something of the classes.

    Args:
      paths: of the development kit (ILSVRC2012_devkit_t12.tar.gz, or its folder), of Kaggle's
        LOC_val_solution.csv and LOC_synset_mapping.txt, and of map_clsloc.txt; any of them, or
        none: then the numbers are those of the list of imagenet_resized in TFDS.

    Raises:
      UserError: if one of them is not what its name says.
    """
    kit = Kit(_known_numbers())
    for path in paths:
        if path.name == SOLUTION:
            kit = dataclasses.replace(kit, truth=_solution(path))
        elif path.name in LISTS:
            kit = _with_list(kit, path)
        else:
            kit = _with_devkit(kit, path)
    return kit


def _known_numbers():
    """{wnid: number}: TFDS comes with the wnids in the order of the downsampled files' labels."""
    import tensorflow_datasets as tfds

    path = tfds.core.tfds_path("image_classification/imagenet_resized_labels.txt")
    return {wnid: number for number, wnid in enumerate(files.read_text(path).split(), 1)}


def _with_devkit(kit, path):
    meta, truth = _devkit_files(path)
    numbers, words, counts = _synsets(path, meta)
    wnids = {number: wnid for wnid, number in numbers.items()}
    labels = {}
    for n, line in enumerate(truth.decode("ascii", "replace").split(), 1):
        if not line.isdecimal() or int(line) not in wnids:
            raise UserError(
                f"{TRUTH} in {path} has in line {n} the class {line[:20]}, which is none of 1 to "
                f"{CLASSES}: download the development kit again."
            )
        labels[f"ILSVRC2012_val_{n:08d}"] = wnids[int(line)]
    return dataclasses.replace(kit, numbers=numbers, words=words, counts=counts, truth=labels)


def _devkit_files(path):
    """The bytes of meta.mat and of the ground truth."""
    with contextlib.suppress(tarfile.TarError, EOFError, zlib.error, OSError):
        if files.is_folder(path):
            if all(files.exists(path / name) for name in (META, TRUTH)):
                return [files.read_bytes(path / name) for name in (META, TRUTH)]
        else:
            content = files.read_bytes(path)
            content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
            with tarfile.TarFile(fileobj=io.BytesIO(content)) as archive:
                found = {name: _member(archive, name) for name in (META, TRUTH)}
                if None not in found.values():
                    return list(found.values())
    raise UserError(
        f"{path} is not the development kit of ILSVRC2012, or not the whole of it, with {META} and "
        f"{TRUTH}: give ILSVRC2012_devkit_t12.tar.gz."
    )


def _member(archive, name):
    return next((archive.extractfile(m).read() for m in archive if m.name.endswith(name)), None)


def _synsets(path, content):
    """({wnid: number}, {wnid: words}, {wnid: training pictures}) of meta.mat's classes."""
    import scipy.io

    try:
        synsets = scipy.io.loadmat(io.BytesIO(content), squeeze_me=True)["synsets"]
        rows = [
            (int(s["ILSVRC2012_ID"]), str(s["WNID"]), str(s["words"]), int(s["num_train_images"]))
            for s in synsets
            if int(s["num_children"]) == 0  # else a node above the classes
        ]
    except Exception as error:  # the reader raises what it likes
        raise UserError(
            f"{META} in {path} cannot be read ({str(error)[:100]}): download the development kit "
            "again."
        ) from None
    numbers = {wnid: number for number, wnid, _, _ in rows}
    _check_numbers(path, numbers)
    words = {wnid: text for _, wnid, text, _ in rows}
    return numbers, words, {wnid: count for _, wnid, _, count in rows}


def _check_numbers(path, numbers):
    if sorted(numbers.values()) != list(range(1, CLASSES + 1)):
        raise UserError(
            f"{path} does not number {CLASSES} classes from 1 to {CLASSES}: give the file of "
            "ILSVRC2012."
        )


def _with_list(kit, path):
    """Of lines `n02119789 1 kit_fox` (map_clsloc.txt) or `n01440764 tench, Tinca tinca`."""
    lines = [line.split(maxsplit=1) for line in files.read_text(path).splitlines() if line.strip()]
    for n, parts in enumerate(lines, 1):
        if len(parts) < 2 or not re.fullmatch(WNID, parts[0]):
            raise UserError(
                f"{path} has in line {n} no wnid, such as n02119789, and what it is: give "
                f"{' or '.join(LISTS)} as they were downloaded."
            )
    if path.name == LISTS[1]:
        return dataclasses.replace(kit, words={wnid: text.strip() for wnid, text in lines})
    numbers, words = {}, {}
    for wnid, text in lines:
        number, _, name = text.partition(" ")
        numbers[wnid] = int(number) if number.isdecimal() else 0
        words[wnid] = name.strip().replace("_", " ")
    _check_numbers(path, numbers)
    return dataclasses.replace(kit, numbers=numbers, words=kit.words or words)


def _solution(path):
    """{name without ending: wnid} of Kaggle's file: ImageId, then a wnid and its boxes."""
    rows = list(csv.reader(files.read_text(path).splitlines()))[1:]
    labels = {}
    for n, row in enumerate(rows, 2):
        parts = row[1].split() if len(row) > 1 else []
        if not parts or not re.fullmatch(WNID, parts[0]):
            raise UserError(f"{path} has in line {n} no picture and its wnid: download it again.")
        labels[row[0]] = parts[0]
    return labels


def order(numbers):
    """int32 [1001]: the place among the sorted wnids of the class with each ILSVRC2012_ID."""
    places = np.full(CLASSES + 1, -1, np.int32)
    for place, wnid in enumerate(sorted(numbers)):
        places[numbers[wnid]] = place
    return places


def words(classes, kit):
    """{WORDS: a line `n01440764 tench, Tinca tinca` for each class}, where they are known."""
    lines = [f"{wnid} {kit.words[wnid]}\n" for wnid in classes if wnid in kit.words]
    return {WORDS: "".join(lines)} if lines else {}


def findings(split, labels, classes, kit):
    """Sentences on how many pictures a split has, beside how many ILSVRC2012 has.

    Args:
      split: train or validation.
      labels: integers [N].
      classes: wnids, in order.
      kit: a Kit.
    """
    counts = np.bincount(labels, minlength=len(classes))
    lowest, highest = int(counts.min()), int(counts.max())
    each = f"{lowest:,}" if lowest == highest else f"{lowest:,} to {highest:,}"
    total = f"{split}: {len(labels):,} pictures of {len(classes):,} classes, {each} a class"
    if (len(labels), len(classes)) == (SIZES[split], CLASSES) and (
        (lowest, highest) == PER_CLASS[split]
    ):
        return [f"{total}, as ILSVRC2012 has."]
    full = " to ".join(f"{count:,}" for count in sorted(set(PER_CLASS[split])))
    result = [
        f"{total}, and ILSVRC2012 has {SIZES[split]:,} of {CLASSES:,}, {full} a class: this is a "
        "subset, or a copy that is not complete."
    ]
    missing = sorted(set(kit.numbers) - set(classes))
    if 0 < len(missing) <= FEW:
        result.append(f"Classes of ILSVRC2012 that are missing: {', '.join(missing)}.")
    known = kit.counts if split == "train" else {}
    short = [
        f"{wnid} ({count:,} of {known[wnid]:,})"
        for wnid, count in zip(classes, counts.tolist(), strict=True)
        if count != known.get(wnid, count)
    ]
    if short:
        result.append(f"Classes with other numbers than the development kit says: {some(short)}.")
    return result
