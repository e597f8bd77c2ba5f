"""A dataset that can be written: its splits, their examples, and the names of its classes.

An example's parts are features, as TFDS calls them: `image` is x, `label` its class, and a
condition NAME is the feature NAME; as `image` is x, the condition `image` is `condition_image`.
"""

import collections
import contextlib
import dataclasses
import functools
import io
import json
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from jaxdiff.data.images import convert, fit
from jaxdiff.errors import UserError

# Files of a prepared dataset: TFDS's two, what was asked for, and what there is.
INFO, FEATURES = "dataset_info.json", "features.json"
REQUEST, SUMMARY = "request.json", "summary.json"


def feature_of(condition):
    """The feature that holds the condition of this name."""
    return "condition_image" if condition == "image" else condition


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A source that is no readable image: its name, and why."""

    source: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Split:
    """A split that can be written.

    Attributes:
      name: such as "train"; letters, numbers and underscores.
      size: number of its sources, readable or not.
      read: (start, stop) -> iterator over what becomes of these sources: {feature: an image as
        `stored` returns it, int of a label, or float32 vector}, or a `Skipped`.
    """

    name: str
    size: int
    read: Callable[[int, int], Iterator]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A dataset that can be written.

    Attributes:
      splits: its splits.
      shapes: {feature: shape}: (height, width, channels) of images, (size,) of vectors, () of
        labels.
      classes: names of the labels, in order; empty where there are none.
      request: JSON values that say what its examples are: settings, and a checksum of the sources.
      notes: sentences on what was found.
      encoding: of the images: `png`, or `raw` for their bytes as they are.
      texts: {name of a file beside the shards: its content}.
    """

    splits: tuple[Split, ...]
    shapes: dict[str, tuple[int, ...]]
    classes: tuple[str, ...]
    request: dict
    notes: tuple[str, ...] = ()
    encoding: str = "png"
    texts: dict[str, str] = dataclasses.field(default_factory=dict)


def stored(image, encoding):
    """A uint8 image [H, W, C] as it is stored: itself for `raw`, the bytes of a PNG for `png`."""
    return image if encoding == "raw" else png(image)


def png(image):
    """The bytes of a PNG file of a uint8 image [H, W, C], C 1 or 3."""
    file = io.BytesIO()
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(file, "png")
    return file.getvalue()


def check_classes(names, where):
    """Raises UserError for names that TFDS's file of them, a name a line, cannot keep."""
    repeated = [name for name, count in collections.Counter(names).items() if count > 1]
    for name in names:
        if name in repeated or name != name.strip() or not name.isprintable() or not name:
            raise UserError(
                f"{where} has a class named {name!r}: a name is a line of printable UTF-8 text "
                "without blanks at its ends, and of one class; rename it."
            )


def from_arrays(splits, class_names, request, image_size=None, channels=None, encoding="png"):
    """A dataset of arrays.

    Args:
      splits: {split: function without arguments that returns its examples, see `checked`}; one
        split's arrays are held in memory at a time.
      class_names: of the labels; empty: they are called by their numbers.
      request: see `Dataset`.
      image_size: what images are cropped and resized to, and with them condition images of the
        same size; None: they stay as they are.
      channels: 1 or 3, what images are converted to; None: as they are.
      encoding: see `Dataset`.

    Raises:
      UserError: for arrays that are no examples, or splits that do not belong together.
    """

    @functools.lru_cache(maxsize=1)
    def examples(name):
        examples.cache_clear()  # else two splits' arrays would be in memory while one is read
        return checked(splits[name](), name)

    shapes, largest, parts = {}, -1, []
    for name in splits:
        arrays = examples(name)
        shapes[name] = _shapes(arrays, image_size, channels)
        largest = max(largest, int(np.max(arrays["cond"].get("label", -1))))
        load = functools.partial(examples, name)
        read = functools.partial(_read, load, image_size, channels, encoding)
        parts.append(Split(name, len(arrays["x"]), read))
    first = next(iter(shapes))
    for name in shapes:
        if shapes[name] != shapes[first]:
            raise UserError(
                f"The splits {first} and {name} hold {shapes[first]} and {shapes[name]}: an "
                "example must be the same in all splits; --image_size brings images to one size."
            )
    classes = tuple(class_names)
    if largest >= 0 and not classes and largest < sum(part.size for part in parts):
        classes = tuple(map(str, range(largest + 1)))
    if largest >= len(classes):
        raise UserError(
            f"There is a label {largest}, but {len(classes)} class names: give one for each class."
        )
    classes = classes if largest >= 0 else ()
    return Dataset(tuple(parts), shapes[first], classes, request, encoding=encoding)


def checked(arrays, where):
    """The arrays of a split as they are written.

    Args:
      arrays: {"x": uint8 images [N, H, W] or [N, H, W, C], "cond": {condition's name: labels,
        integers [N] called `label`; a vector, numbers [N, ...]; or images like x}}.
      where: what holds them, for messages.

    Returns:
      The same as x [N, H, W, C], labels int64 [N], vectors float32 [N, V], images [N, h, w, c].
    """
    x = _images(arrays["x"], "images", where)
    cond = {}
    for name, array in arrays["cond"].items():
        array, count = np.asarray(array), len(x)
        if name == "label":
            is_good = array.dtype.kind in "iu" and array.shape == (count,) and array.min() >= 0
            expected = f"integers [{count}] from 0 on"
        elif array.dtype == np.uint8 and array.ndim in (3, 4):
            array, is_good = _images(array, name, where), len(array) == count
            expected = f"{count} images"
        else:
            is_good = array.dtype.kind in "iuf" and array.ndim > 1 and len(array) == count
            array = array.astype(np.float32).reshape(len(array), -1) if is_good else array
            is_good = is_good and np.isfinite(array).all()
            expected = f"finite numbers [{count}, size]"
        if not is_good:
            raise UserError(
                f"{where} holds {name} of {array.dtype} {list(array.shape)}: it must be {expected}."
            )
        cond[name] = array
    return {"x": x, "cond": cond}


def _images(array, name, where):
    array = np.asarray(array)
    images = array[..., None] if array.ndim == 3 else array
    if (
        images.dtype != np.uint8
        or images.ndim != 4
        or images.shape[3] not in (1, 3)
        or not images.size
    ):
        raise UserError(
            f"{where} holds {name} of {array.dtype} {list(array.shape)}: images must be uint8 "
            "[N, H, W] or [N, H, W, C], with C 1 or 3, and at least one."
        )
    return images


def _shapes(arrays, image_size, channels):
    """{feature: shape} of the examples that are written."""
    height, width, depth = arrays["x"].shape[1:]
    size = (image_size or height, image_size or width)
    shapes = {"image": (*size, channels or depth)}
    for name, array in arrays["cond"].items():
        shape = array.shape[1:]
        is_aligned = shape[:2] == (height, width)
        shapes[feature_of(name)] = (*size, shape[2]) if len(shape) == 3 and is_aligned else shape
    return shapes


def _read(load, image_size, channels, encoding, start, stop):
    """The examples of a split in [start, stop), as a `Split` reads them."""
    arrays = load()
    for number in range(start, stop):
        image = arrays["x"][number]
        example = {"image": _fitted(image, image_size, channels or image.shape[2], encoding)}
        for name, array in arrays["cond"].items():
            value = array[number]
            if value.ndim == 3:
                size = image_size if value.shape[:2] == image.shape[:2] else None
                value = _fitted(value, size, value.shape[2], encoding)
            example[feature_of(name)] = value
        yield example


def _fitted(image, size, channels, encoding):
    return stored(fit(image, size, channels) if size else convert(image, channels), encoding)


def check_features(value):
    """Refuses features of classes other than TFDS's own: it would import their modules."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):  # JSON can be in JSON's text
            check_features(json.loads(value))
    elif isinstance(value, list):
        for each in value:
            check_features(each)
    elif isinstance(value, dict):
        for key, each in value.items():
            is_class = key in ("pythonClassName", "python_class_name", "type")
            if is_class and isinstance(each, str) and not each.startswith("tensorflow_datasets."):
                raise ValueError(f"a feature is of the class {each[:80]}, which is not TFDS's")
            check_features(each)
