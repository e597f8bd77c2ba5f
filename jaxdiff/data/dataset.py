"""A dataset that can be written: its splits, its classes, and what is asked of their names."""

import collections
import dataclasses
import io
from collections.abc import Callable, Iterator

from PIL import Image

from jaxdiff.errors import UserError


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
      notes: sentences on what was found and is none of its sources.
    """

    splits: tuple[Split, ...]
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    request: dict
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Report:
    """What is in a folder.

    Attributes:
      sizes: {split: number of its examples}.
      skipped: the sources that were.
      was_there: whether it was there before.
      classes: their names.
      counts: {split: how many examples each class has}; empty where there are no classes, and for a
        dataset that an earlier version has written.
      shape: (height, width, channels) of every image.
      notes: sentences on what was found and is none of its sources.
    """

    sizes: dict[str, int]
    skipped: tuple[Skipped, ...]
    was_there: bool
    classes: tuple[str, ...] = ()
    counts: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    shape: tuple[int, int, int] = (0, 0, 0)
    notes: tuple[str, ...] = ()


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
        try:
            name.encode("utf-8")
        except UnicodeEncodeError:
            raise UserError(
                f"{where} has a class named {name!r}, which is not text in UTF-8: rename it."
            ) from None
    if repeated := [name for name, count in collections.Counter(names).items() if count > 1]:
        raise UserError(f"{where} has several classes named {repeated[0]}: give them other names.")


def shortened(text, most=80):
    """A text as it is shown in a message."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text):,} letters)"
