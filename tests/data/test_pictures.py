"""Pictures are turned, odd metadata lose none, and deep ones become 8 bits by their range."""

import struct
import zlib

import numpy as np
import pytest
from etils import epath
from PIL import Image

from jaxdiff.data.pictures import decode, endings, find_whites
from tests.data.preparing import encoded

COLOUR = np.random.RandomState(0).randint(0, 256, (12, 16, 3)).astype(np.uint8)
TURNED = np.rot90(COLOUR, -1)  # clockwise
# A whole EXIF file of one entry, orientation 6, which is to be turned clockwise.
EXIF = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
SRATIONAL = b"II*\0" + struct.pack(  # out of range
    "<IHHHIHHHHIIIiI", 8, 2, 0x0112, 3, 1, 6, 0, 0x011A, 10, 1, 38, 0, -1, 0
)
BIG = zlib.compress(bytes(2 * 2**20))  # Pillow reads 1 MiB of text and of profiles


def packed(name, content):
    """A chunk of a PNG file."""
    check = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)


def png(*chunks, last=()):
    data = encoded(COLOUR)
    first, last = (b"".join(packed(*chunk) for chunk in those) for those in (chunks, last))
    return data[:33] + first + data[33:-12] + last + data[-12:]


FILES = {
    "text": (png((b"zTXt", b"k\0\0" + BIG)), COLOUR),
    "text after the picture": (png(last=[(b"zTXt", b"k\0\0" + BIG)]), COLOUR),
    "texts": (png(*[(b"tEXt", b"k\0" + bytes(2**20))] * 65), COLOUR),
    "profile": (png((b"iCCP", b"k\0\0" + BIG)), COLOUR),
    "text and orientation": (png((b"eXIf", EXIF), (b"zTXt", b"k\0\0" + BIG)), TURNED),
    "cut EXIF": (png((b"eXIf", EXIF[:12])), COLOUR),
    "false XMP": (png((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0\xff<")), COLOUR),
    "EXIF with a number out of range": (png((b"eXIf", SRATIONAL)), TURNED),
}


@pytest.mark.parametrize("name", FILES)
def test_metadata_do_not_lose_a_picture(tmp_path, name, capfd):
    data, expected = FILES[name]
    (tmp_path / "picture").write_bytes(data)
    np.testing.assert_array_equal(decode(epath.Path(tmp_path / "picture")), expected)
    assert capfd.readouterr() == ("", "")


def test_a_corrupt_picture_is_an_error(tmp_path):
    whole = png()
    for data in (whole[:-200], whole.replace(b"IDAT", b"IDAX"), b"", whole[:8], b"\xff\xd8"):
        (tmp_path / "bad.png").write_bytes(data)
        with pytest.raises(Exception):  # noqa: B017, PT011 what Pillow raises
            decode(epath.Path(tmp_path / "bad.png"))


RAMP = np.linspace(0, 1, 480).reshape(20, 24)


def deep(path, largest, dtype):
    Image.fromarray((RAMP * largest).astype(dtype)).save(path)
    return epath.Path(path)


@pytest.mark.parametrize(
    ("name", "largest", "dtype", "white"),
    [
        ("a.tif", 255, np.int32, 255),
        ("a.tif", 4000, np.int32, 4095),
        ("a.png", 4095, np.uint16, 4095),
        ("a.png", 1023, np.uint16, 1023),
        ("a.png", 65535, np.uint16, 65535),
        ("a.tif", 1, np.float32, 1),
        ("a.tif", 255, np.float32, 255),
    ],
)
def test_white_is_the_limit_that_holds_every_value(tmp_path, name, largest, dtype, white):
    path = deep(tmp_path / name, largest, dtype)
    dark = deep(tmp_path / f"dark{path.suffix}", largest / 2, dtype)
    for found in (find_whites(None, [path, dark]), None):
        # Whole numbers were cut off before they were scaled: by less than one of `largest`.
        shades = decode(path, found)[..., 0]
        np.testing.assert_allclose(
            shades, RAMP * 255 * largest / white, atol=0.5 + 255 / max(white, 255)
        )
    # A dark picture stays dark beside a bright one.
    expected = round(decode(path)[..., 0].max() / 2)
    assert abs(int(decode(dark, find_whites(None, [path, dark])).max()) - expected) <= 1


def test_bits_can_be_given(tmp_path):
    path = deep(tmp_path / "a.png", 500, np.uint16)
    assert decode(path, find_whites(9, [path])).max() == round(500 / 511 * 255)


def test_values_of_unknown_black_are_errors(tmp_path):
    for number, values in enumerate((-1.0, np.nan, 1e6)):
        path = epath.Path(tmp_path / f"{number}.tif")
        Image.fromarray(np.full((4, 4), values, np.float32)).save(path)
        assert find_whites(None, [path]) == find_whites(None, [])
        with pytest.raises(ValueError, match="its values"):
            decode(path)


def test_whatever_pillow_opens_is_read_by_its_ending():
    assert {".jfif", ".jpe", ".mpo", ".avif", ".jp2", ".tga", ".png"} <= set(endings())
    assert not {".eps", ".ps", ".wmf", ".mpg", ".h5", ".pdf"} & set(endings())
