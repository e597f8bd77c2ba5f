"""Reading a file of one picture as people see it, whatever its metadata are like.

Values of more than 8 bits (16, 32, or floats) become 8 by the rule of `Whites`.
"""

import dataclasses
import functools
import io
import pathlib
import re
import sys
import warnings

import numpy as np
from PIL import Image

from jaxdiff.data.metadata import without_metadata

# Formats of Pillow that are no pictures of pixels, or that start another program to become so.
NOT_READ = ("EPS", "WMF", "MPEG", "BUFR", "GRIB", "HDF5", "IPTC", "FPX", "MIC", "PDF")
SHALLOW = ("JPEG", "MPO", "WEBP", "GIF", "BMP", "AVIF")  # Pillow decodes them to 8 bits
GREY = ("1", "L", "LA", "La")  # Pillow's modes
NATIVE = "B" if sys.byteorder == "little" else "L"  # the order that the machine has not
LIMITS = tuple(2**bits - 1 for bits in (8, 10, 12, 14, 16))  # of values of so many bits
NEAR = 63 / 64  # of a limit: what reaches it uses the whole range up to that limit
# How Pillow unpacks colour, or grey with transparency, of 16 bits to the upper 8, and what unpacks
# the lower ones: as if the bytes were in the other order; of grey, to the second channel.
LOWER = {
    **{f"{mode};16B": f"{mode};16L" for mode in ("RGB", "RGBA")},
    **{f"{mode};16L": f"{mode};16B" for mode in ("RGB", "RGBA")},
    **{f"{mode};16N": f"{mode};16{NATIVE}" for mode in ("RGB", "RGBA")},
    "LA;16B": "RGBA",
}
BITS_PER_SAMPLE = 258  # a tag of TIFF
ORIENTATION = 0x0112  # a tag of EXIF
# Its entry in either order of bytes: tag, type (a number of 16 bits), count (1), value.
ENTRY = re.compile(
    rb"\x01\x12\x00\x03\x00\x00\x00\x01\x00([\x01-\x08])"
    rb"|\x12\x01\x03\x00\x01\x00\x00\x00([\x01-\x08])\x00"
)
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@functools.cache
def endings():
    """{ending: format} of the files that Pillow, as it is installed, opens as pictures."""
    known = Image.registered_extensions()  # loads all formats
    return {
        ending: name
        for ending, name in known.items()
        if (name in Image.OPEN or name == "MPO") and name not in NOT_READ
    }


@dataclasses.dataclass(frozen=True)
class Whites:
    """The value that is white in pictures of more than 8 bits; 0 is black.

    It is the first of these that there is:

    1. the largest value of `bits`, if they were given;
    2. the largest value of the bits that the file states, where they are fewer than its numbers
       have (a TIFF file of 12);
    3. the limit (255, 1023, 4095, 16383 or 65535; of floats also 1) that the picture's largest
       value is within 1/64 of;
    4. the smallest limit that holds every value of the pictures of the same kind of numbers, so
       that dark pictures stay dark beside bright ones.

    Attributes:
      bits: that all such pictures use, or None.
      of_kind: {kind of numbers: the limit of 4.}.
    """

    bits: int | None = None
    of_kind: dict[str, float] = dataclasses.field(default_factory=dict)

    def of(self, values, kind, stated):
        """What is white in a picture of these values, of which the file states so many bits."""
        if self.bits or stated:
            return 2 ** (self.bits or stated) - 1
        own = _limit(values.max(), kind)
        return own if values.max() >= NEAR * own else max(own, self.of_kind.get(kind, own))


def find_whites(bits, paths, mapped=map):
    """The `Whites` of a set of pictures, of which those of more than 8 bits are looked at.

    Args:
      bits: as there.
      paths: of all pictures.
      mapped: (function, paths) -> results in order.
    """
    largest = {}
    if not bits:
        known = endings()
        candidates = [p for p in paths if known.get(pathlib.Path(p).suffix.lower()) not in SHALLOW]
        for found in mapped(_largest, candidates):
            if found is not None:
                kind, value = found
                largest[kind] = max(value, largest.get(kind, 0))
    return Whites(bits, {kind: _limit(value, kind) for kind, value in largest.items()})


def decode(path, whites=None):
    """A picture (the first, of a file of several) as people see it.

    It is turned as its EXIF data say. Transparency is dropped, as ADM does.

    Args:
      path: of the file.
      whites: of the set that it belongs to; None: of no other.

    Returns:
      uint8 [H, W, 1] for grey modes, else [H, W, 3].

    Raises:
      Exception: whatever Pillow raises for what is not a whole picture.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # notes on odd files, amid the progress bar
        picture, lower, stated = _load(path)
        if kind := _kind(picture, lower):
            values = _values(picture, lower)
            white = (whites or Whites()).of(values, kind, stated)
            return np.round(np.clip(values * (255 / white), 0, 255)).astype(np.uint8)
        if picture.mode in GREY:
            return np.asarray(picture.convert("L"))[..., None]
        if "transparency" in picture.info:
            picture = picture.convert("RGBA")
        return np.asarray(picture.convert("RGB"))


def _kind(picture, lower):
    """Of what numbers a picture is, "I;16", "I", "F" or "colour"; None for bytes."""
    if lower is not None:
        return "I;16" if lower.info.get("grey") else "colour"
    return picture.mode[:4] if picture.mode.startswith(("I", "F")) else None


def _limit(value, kind):
    """The smallest limit that holds a value."""
    limits = (1, *LIMITS) if kind == "F" else LIMITS
    return next((limit for limit in limits if value <= limit), value)


def _values(picture, lower):
    """The numbers of a picture of more than 8 bits, float64 [H, W, 1 or 3]."""
    values = np.asarray(picture).astype(np.float64)
    if lower is not None:
        channels = (slice(0, 1), slice(1, 2)) if lower.info.get("grey") else (slice(3), slice(3))
        values = values[..., channels[0]] * 256 + np.asarray(lower)[..., channels[1]]
    values = values if values.ndim == 3 else values[..., None]
    if not np.isfinite(values).all():
        raise ValueError("some of its values are not finite")
    if values.min() < 0:
        raise ValueError("some of its values are negative, so that black is unknown")
    if values.max() > LIMITS[-1]:
        raise ValueError("its values have more than 16 bits")
    return values


def _largest(path):
    """(kind, largest value) of a picture of more than 8 bits which does not say what white is."""
    try:
        with open(path, "rb") as file:
            head = file.read(25)
        if head.startswith(b"\x89PNG") and head[24] != 16:  # where a PNG file has its bits
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as file:
                if not _kind(file, None) and _unpacking(file) not in LOWER:
                    return None
            picture, lower, stated = _load(path)
            return None if stated else (_kind(picture, lower), _values(picture, lower).max())
    except Exception:  # it is skipped, and counted, when it is to be read
        return None


def _load(path):
    """(the picture, turned; one of its lower bytes, or None; the bits that the file states).

    The bits are None where they are not fewer than its numbers have.
    """
    try:
        return _open(path)
    except Exception:
        data = pathlib.Path(path).read_bytes()
        bare, exif = without_metadata(data)
        if bare == data:
            raise
        try:
            # Not a file on disk, as Pillow would tell formats by its name.
            return _open(io.BytesIO(bare), exif)
        except Exception:
            pass
        raise  # what was wrong with the file as it is


def _open(file, exif=None):
    with Image.open(file) as picture:
        unpacking = _unpacking(picture)
        picture.load()
        bits = set(getattr(picture, "tag_v2", {}).get(BITS_PER_SAMPLE, ()))
        stated = bits.pop() if len(bits) == 1 and 8 < min(bits) < 16 else None
        turn = TURNS.get(_orientation(picture, exif))
        turned = picture.copy() if turn is None else picture.transpose(turn)
    if unpacking not in LOWER:
        return turned, None, stated
    if isinstance(file, io.BytesIO):
        file.seek(0)
    with Image.open(file) as lower:
        lower.tile = [_unpacked_by(tile, LOWER[unpacking]) for tile in lower.tile]
        lower.load()
        lower = lower.copy() if turn is None else lower.transpose(turn)
    lower.info["grey"] = unpacking.startswith("LA")
    return turned, lower, stated


def _unpacking(picture):
    """How Pillow is to unpack the pixels of a picture that is not loaded yet, or None."""
    if not (tiles := getattr(picture, "tile", None)):
        return None
    how = tiles[0][3]
    how = how[0] if isinstance(how, tuple) and how else how
    return how if isinstance(how, str) else None


def _unpacked_by(tile, how):
    codec, extents, offset, old = tile
    return type(tile)(codec, extents, offset, (how, *old[1:]) if isinstance(old, tuple) else how)


def _orientation(picture, exif):
    """The value of EXIF's tag, 1 to 8; None where it cannot be read.

    Args:
      picture: an open file.
      exif: bytes of the EXIF data, where Pillow did not get them.
    """
    exif = exif or picture.info.get("exif") or b""
    try:
        tags = picture.getexif()
        if not tags and exif:
            tags.load(exif)
        value = tags.get(ORIENTATION)
    except Exception:  # of a parser that other tags have confused
        value = None
    if value in range(1, 9):
        return value
    if isinstance(exif, bytes) and (match := ENTRY.search(exif)):
        return (match[1] or match[2])[0]
    return None
