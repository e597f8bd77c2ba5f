"""Reading a picture file as viewers show it: its first frame, upright, in 8 bits."""

import contextlib
import dataclasses
import functools
import io
import warnings

import numpy as np
from PIL import Image, PngImagePlugin

from jaxdiff import files

# Formats of Pillow that are no pictures of pixels, or that start another program to become so.
NOT_READ = ("EPS", "WMF", "MPEG", "BUFR", "GRIB", "HDF5", "IPTC", "FPX", "MIC", "PDF")
GREY = ("1", "L", "LA", "La")  # Pillow's modes
LIMITS = tuple(2**bits - 1 for bits in (8, 10, 12, 14, 16))  # of values of so many bits
ORIENTATION = 0x0112  # a tag of EXIF
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = [TURNS[number] for number in (5, 6, 7, 8)]
# Texts and profiles, however long, lose no picture.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 2**30


@functools.cache
def endings():
    """{ending: format} of the files that Pillow, as it is installed, opens as pictures."""
    known = Image.registered_extensions()  # loads all formats
    return {
        ending: name
        for ending, name in known.items()
        if (name in Image.OPEN or name == "MPO") and name not in NOT_READ
    }


def decode(path, whites=None):
    """A picture (the first, of a file of several) as people see it.

    It is turned as its EXIF data say. Transparency is dropped, as ADM does. Values of more than 8
    bits become 8: 0 is black, and white as `whites` says.

    Args:
      path: of the file.
      whites: what `find_whites` returned for the set that it belongs to; None: of no other.

    Returns:
      uint8 [H, W, 1] for grey modes, else [H, W, 3].

    Raises:
      Exception: whatever Pillow raises for what is not a whole picture.
    """
    with _opened(path) as picture:
        if kind := _deep(picture):
            values = _values(picture)
            white = whites[kind] if whites else _limit(values.max(), kind)
            image = np.round(np.clip(values * (255 / white), 0, 255)).astype(np.uint8)
            picture, turn = Image.fromarray(image), _turn(picture)
        else:
            picture.load()
            turn = _turn(picture)
        return _array(picture if turn is None else picture.transpose(turn))


def decode_as_stored(content):
    """A picture file's bytes as ADM and torchvision read them: EXIF's orientation is not applied.

    Args:
      content: of a picture of 8 bits.

    Returns:
      uint8 [H, W, 1] for grey modes, else [H, W, 3].

    Raises:
      Exception: whatever Pillow raises for what is not a whole picture.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(content)) as picture:
            picture.load()
            return _array(picture)


def _array(picture):
    """A loaded picture of 8 bits as uint8 [H, W, 1 or 3]."""
    if picture.mode in GREY:
        return np.asarray(picture.convert("L"))[..., None]
    if "transparency" in picture.info:
        picture = picture.convert("RGBA")
    return np.asarray(picture.convert("RGB"))


@dataclasses.dataclass(frozen=True)
class Header:
    """What a picture file says of its picture: size in pixels, colour, and whether it is deep."""

    height: int
    width: int
    is_grey: bool
    is_deep: bool


def header(content):
    """The Header of a picture file's bytes, of which no pixel is decoded.

    Raises:
      Exception: whatever Pillow raises for what is no picture.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(content)) as picture:
            width, height = picture.size
            # Other formats may have their EXIF data behind the pixels.
            if picture.format in ("JPEG", "MPO") and _turn(picture) in SIDEWAYS:
                width, height = height, width
            is_deep = _deep(picture) is not None
            return Header(height, width, is_deep or picture.mode in GREY, is_deep)


def find_whites(bits, paths, mapped=map):
    """{kind of numbers: the value that is white} of pictures of more than 8 bits in a set.

    It is the largest value of `bits`, or else the smallest of 255, 1023, 4095, 16383 and 65535 (of
    floats also 1) that holds every value of all those pictures.

    Args:
      bits: that they use, or None.
      paths: of all pictures of the set.
      mapped: (function, paths) -> results in order.
    """
    if bits:
        return {"I": 2**bits - 1, "F": 2**bits - 1}
    largest = {"I": 0, "F": 0}
    for kind, value in filter(None, mapped(_largest, paths)):
        largest[kind] = max(largest[kind], value)
    return {kind: _limit(value, kind) for kind, value in largest.items()}


@contextlib.contextmanager
def _opened(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # notes on odd files, amid the progress bar
        with files.opened(path) as file, Image.open(file) as picture:
            yield picture


def _deep(picture):
    """Of what numbers a picture of more than 8 bits is: I, whole ones, or F; None for bytes."""
    return picture.mode[0] if picture.mode.startswith(("I", "F")) else None


def _limit(value, kind):
    """The smallest limit that holds a value."""
    return next(limit for limit in ((1, *LIMITS) if kind == "F" else LIMITS) if value <= limit)


def _values(picture):
    """The numbers of a picture of more than 8 bits, float64 [H, W]."""
    values = np.asarray(picture).astype(np.float64)
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= LIMITS[-1]):
        raise ValueError("some of its values are not finite, negative, or above 65535")
    return values


def _largest(path):
    """(kind, largest value) of a picture of more than 8 bits, else None."""
    with contextlib.suppress(Exception), _opened(path) as picture:  # it is skipped later
        if kind := _deep(picture):
            return kind, _values(picture).max()
    return None


def _turn(picture):
    """How EXIF's orientation turns a picture that is loaded; None: not, or it cannot be read."""
    with contextlib.suppress(Exception):  # of a parser that other tags have confused
        return TURNS.get(picture.getexif().get(ORIENTATION))
    return None
