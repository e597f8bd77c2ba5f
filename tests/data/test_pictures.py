"""Pictures whose metadata cannot be parsed are kept; deep ones become 8 bits by their range."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from jaxdiff.data.pictures import Whites, decode, endings, find_whites

COLOUR = np.random.RandomState(0).randint(0, 256, (12, 16, 3)).astype(np.uint8)
TURNED = np.rot90(COLOUR, -1)  # clockwise
# A whole EXIF file of one entry, orientation 6, which is to be turned clockwise.
EXIF = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
BIG = zlib.compress(bytes(2 * 2**20))  # Pillow reads 1 MiB of text and of profiles


def saved(picture, kind, **options):
    file = io.BytesIO()
    Image.fromarray(picture).save(file, kind, **options)
    return file.getvalue()


def packed(name, content):
    """A chunk of a PNG file."""
    check = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)


def png(*chunks, last=()):
    data = saved(COLOUR, "png")
    first, last = (b"".join(packed(*chunk) for chunk in those) for those in (chunks, last))
    return data[:33] + first + data[33:-12] + last + data[-12:]


def jpeg(*segments):
    data = saved(COLOUR, "jpeg")
    added = (bytes([255, m]) + struct.pack(">H", len(s) + 2) + s for m, s in segments)
    return data[:20] + b"".join(added) + data[20:]


def shown(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


PLAIN_JPEG = shown(jpeg())
PNG_FILES = {
    "text": (png((b"zTXt", b"k\0\0" + BIG)), COLOUR),
    "text after the picture": (png(last=[(b"zTXt", b"k\0\0" + BIG)]), COLOUR),
    "texts": (png(*[(b"tEXt", b"k\0" + bytes(2**20))] * 65), COLOUR),
    "profile": (png((b"iCCP", b"k\0\0" + BIG)), COLOUR),
    "text and orientation": (png((b"eXIf", EXIF), (b"zTXt", b"k\0\0" + BIG)), TURNED),
    "checksum of a text": (png((b"tEXt", b"k\0v")).replace(b"k\0v", b"k\0w"), COLOUR),
    "cut EXIF": (png((b"eXIf", EXIF[:12])), COLOUR),
    "EXIF without its header": (png((b"eXIf", EXIF[8:])), TURNED),
    "EXIF that begins elsewhere": (png((b"eXIf", EXIF[:4] + b"\xff" * 4 + EXIF[8:])), TURNED),
    "short chunks": (png((b"pHYs", b"a"), (b"cHRM", b""), (b"gAMA", b"b")), COLOUR),
    "false XMP": (png((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0\xff<")), COLOUR),
}
SRATIONAL = b"II*\0" + struct.pack(
    "<IHHHIHHHHIIIiI", 8, 2, 0x0112, 3, 1, 6, 0, 0x011A, 10, 1, 38, 0, -1, 0
)
JPEG_FILES = {
    "numbers out of range": (jpeg((0xE1, b"Exif\0\0" + SRATIONAL)), np.rot90(PLAIN_JPEG, -1)),
    "twice EXIF": (jpeg((0xE1, b"Exif\0\0Exif\0\0" + EXIF)), np.rot90(PLAIN_JPEG, -1)),
    "short Adobe": (jpeg((0xEE, b"Adobe")), PLAIN_JPEG),
    "short JFIF": (jpeg().replace(jpeg()[2:20], b"\xff\xe0\0\6JFIF"), PLAIN_JPEG),
    "false pictures": (jpeg((0xE2, b"MPF\0" + bytes(9))), PLAIN_JPEG),
    "profile of other parts": (jpeg((0xE2, b"ICC_PROFILE\0\1\5abc")), PLAIN_JPEG),
}


@pytest.mark.parametrize("name", [*PNG_FILES, *JPEG_FILES])
def test_metadata_do_not_lose_a_picture(tmp_path, name, capfd):
    data, expected = (PNG_FILES | JPEG_FILES)[name]
    (tmp_path / "picture").write_bytes(data)
    np.testing.assert_array_equal(decode(tmp_path / "picture"), expected)
    assert capfd.readouterr() == ("", "")


def test_metadata_of_webp_and_avif_do_not_lose_a_picture(tmp_path):
    whole = saved(COLOUR, "webp", lossless=True, exif=EXIF)
    (tmp_path / "a.webp").write_bytes(whole[:-10])  # the end of the orientation is gone
    np.testing.assert_array_equal(decode(tmp_path / "a.webp"), COLOUR)
    plain = saved(COLOUR, "avif")
    turned = saved(COLOUR, "avif", exif=EXIF)
    (tmp_path / "a.avif").write_bytes(turned.replace(b"II*\0", b"?" * 4))
    difference = decode(tmp_path / "a.avif").astype(int) - np.rot90(shown(plain), -1)
    assert np.abs(difference).mean() < 3  # it is lossy, and coded in another run


def test_damage_to_the_picture_is_still_an_error(tmp_path):
    whole = png((b"zTXt", b"k\0\0" + BIG))
    for data in (
        whole[:-200],
        whole.replace(b"IDAT", b"IDAX"),
        b"",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8",
    ):
        (tmp_path / "bad.png").write_bytes(data)
        with pytest.raises(Exception):  # noqa: B017, PT011 what Pillow raises
            decode(tmp_path / "bad.png")


RAMP = np.linspace(0, 1, 480).reshape(20, 24)


def deep(path, largest, dtype):
    Image.fromarray((RAMP * largest).astype(dtype)).save(path)
    return str(path)


@pytest.mark.parametrize(
    ("name", "largest", "dtype"),
    [
        ("a.tif", 255, np.int32),
        ("a.tif", 4095, np.int32),
        ("a.png", 4095, np.uint16),
        ("a.png", 1023, np.uint16),
        ("a.png", 65535, np.uint16),
        ("a.tif", 1, np.float32),
        ("a.tif", 255, np.float32),
        ("a.tif", 65535, np.float32),
    ],
)
def test_white_is_the_end_of_a_picture_s_range(tmp_path, name, largest, dtype):
    path = deep(tmp_path / name, largest, dtype)
    others = [deep(tmp_path / "other.png", 65535, np.uint16)]
    shades = decode(path, find_whites(None, [path, *others]))[..., 0]
    # Whole numbers were cut off before they were scaled: by less than one of `largest`.
    np.testing.assert_allclose(shades, RAMP * 255, atol=0.5 + 255 / max(largest, 255))


def deep_png(path, values):
    """A PNG file of 16 bits: values [H, W, 2 or 3], of grey and transparency or of colour."""
    kind = {2: 4, 3: 2}[values.shape[2]]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, kind, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"eXIf", EXIF), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed(*chunk) for chunk in chunks))


@pytest.mark.parametrize("largest", [1023, 4095, 65535])
def test_colour_and_transparent_grey_of_16_bits_are_deep_as_well(tmp_path, largest):
    values = np.random.RandomState(0).randint(0, largest + 1, (20, 24, 3))
    values[0, 0] = largest
    for channels, kept in ((3, 3), (2, 1)):
        deep_png(tmp_path / "a.png", values[..., :channels])
        expected = np.rot90(np.round(values[..., :kept] * (255 / largest)), -1)
        np.testing.assert_array_equal(decode(tmp_path / "a.png"), expected)


def test_dark_pictures_stay_dark_beside_bright_ones(tmp_path):
    bright, dark = (deep(tmp_path / f"{n}.png", n, np.uint16) for n in (4095, 500))
    shades = decode(dark, find_whites(None, [dark, bright]))
    assert shades.max() == round(500 / 4095 * 255)
    assert decode(bright, find_whites(None, [dark, bright])).max() == 255
    assert decode(dark, Whites(bits=9)).max() == round(500 / 511 * 255)


def test_values_of_unknown_black_are_errors(tmp_path):
    for number, values in enumerate((-1.0, np.nan, 1e6)):
        path = tmp_path / f"{number}.tif"
        Image.fromarray(np.full((4, 4), values, np.float32)).save(path)
        with pytest.raises(ValueError, match="its values"):
            decode(path)


def test_whatever_pillow_opens_is_read_by_its_ending():
    assert {".jfif", ".jpe", ".mpo", ".avif", ".jp2", ".tga", ".png"} <= set(endings())
    assert not {".eps", ".ps", ".wmf", ".mpg", ".h5", ".pdf"} & set(endings())
