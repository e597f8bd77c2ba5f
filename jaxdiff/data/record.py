"""A run's record of its data, RUN/data.json: what it was trained on, and what its classes are.

examples    of the training split
sha256      of the examples, see `checksum`
classes     their names, in order; empty for data without labels
empty       numbers of the classes that have no example
"""

import hashlib

from jaxdiff import files
from jaxdiff.errors import UserError

NAME = "data.json"
FIELDS = ("examples", "sha256", "classes", "empty")
ALL = 2**16  # of no more examples than these the checksum covers each
SOME = 2**12  # of more it covers so many, spread evenly
ROWS = 256  # read at once


def describe(source):
    """The record of a split: a dict with FIELDS.

    Args:
      source: a `jaxdiff.data.source.Source`.

    Raises:
      UserError: if examples cannot be read.
    """
    return {
        "examples": len(source),
        "sha256": checksum(source),
        "classes": list(source.class_names),
        "empty": list(source.empty),
    }


def checksum(source):
    """SHA-256 of a split's examples as they are stored, and of what is known of their origin.

    Of a dataset of more than ALL examples SOME are read, which takes seconds however large it is;
    of one that `jaxdiff.data.prepare` has made, the checksum of all its sources counts as well.
    Every array of an example counts, also those that no condition of the model reads.
    """
    digest = hashlib.sha256(f"{len(source)}\n{source.origin}\n".encode())
    count = len(source) if len(source) <= ALL else SOME
    numbers = [n * len(source) // count for n in range(count)]
    for start in range(0, count, ROWS):
        for row in source.raw(numbers[start : start + ROWS]):
            digest.update(row)
    return digest.hexdigest()


def read(folder):
    """The record in a run's folder; None where there is none, as in imported runs.

    Raises:
      UserError: if it is corrupt.
    """
    path = folder / NAME
    return files.read_json(path, FIELDS) if files.exists(path) else None


def write(folder, record):
    """Writes the record of a run."""
    files.write_json(folder / NAME, record)


def check(folder, record, name):
    """Raises UserError if a run was trained on other data than the record describes.

    Args:
      folder: of the run.
      record: from `describe`.
      name: of the data, for the message.
    """
    old = read(folder)
    if old is None or old == record:
        return
    different = []
    if old["examples"] != record["examples"]:
        different.append(f"the number of examples ({old['examples']:,} in the run's)")
    if difference := first_difference(old["classes"], record["classes"]):
        number, theirs, here = difference
        different.append(f"the name of class {number} ({theirs} in the run's, here {here})")
    if old["sha256"] != record["sha256"]:
        different.append("the checksum of the examples")
    if different:
        raise UserError(
            f"The dataset {name} is not the one that {folder} was trained on: it differs in "
            f"{', '.join(different)}; restore that one, or choose another --workdir."
        )


def are_named(classes):
    """Whether classes have names other than their numbers, which say nothing of them."""
    return bool(classes) and classes != [str(number) for number in range(len(classes))]


def first_difference(names, others):
    """(number, name, other name) of the first class whose names differ, or None."""
    for number in range(max(len(names), len(others))):
        pair = [each[number] if number < len(each) else "none" for each in (names, others)]
        if pair[0] != pair[1]:
            return number, *pair
    return None
