"""Picture files without their metadata: what Pillow reads where it stumbles over them."""

import re
import struct

PNG = b"\x89PNG\r\n\x1a\n"
PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
# Segments that say what colours are, and the bytes of a whole one: APP0 (JFIF), APP14 (Adobe).
JPEG_KEPT = {0xE0: 16, 0xEE: 14}
WEBP_METADATA = (b"EXIF", b"XMP ", b"ICCP")
WEBP_FLAGS = 0b101100  # of VP8X: that there are those


def without_metadata(data):
    """A PNG, JPEG, WebP or AVIF file of its picture alone.

    Args:
      data: bytes of a file.

    Returns:
      (bytes of the file, its EXIF data or None); of other files, and of what is no whole file, the
      data as they are.
    """
    try:
        if data.startswith(PNG):
            return _png(data)
        if data.startswith(b"\xff\xd8"):
            return _jpeg(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data)
        if data[4:8] == b"ftyp":
            # Items of metadata get a type that nobody reads. What turns an AVIF is none of them.
            return re.sub(rb"(infe.{8})(?:Exif|mime)", rb"\1skip", data, flags=re.DOTALL), None
    except (struct.error, IndexError, ValueError):  # it ends early
        pass
    return data, None


def _png(data):
    parts, exif, at = [PNG], None, len(PNG)
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        content, check = data[at + 8 : at + 8 + size], data[at + 8 + size : at + 12 + size]
        if kind == b"eXIf":
            exif = content
        if kind in PNG_KEPT:
            parts.append(data[at : at + 8] + content + check)
        if kind == b"IEND":
            break
        at += 12 + size
    return b"".join(parts), exif


def _jpeg(data):
    parts, exif, at = [data[:2]], None, 2
    while True:
        at = data.index(b"\xff", at) if data[at] != 0xFF else at
        marker = data[at + 1]
        if marker in (0x00, 0xFF):  # no marker, or one that is filled up
            at += 1
            continue
        if marker == 0xDA:  # the scan, and so the rest, is the picture
            return b"".join([*parts, data[at:]]), exif
        (size,) = struct.unpack_from(">H", data, at + 2)
        segment = data[at : at + 2 + size]
        if exif is None and marker == 0xE1 and segment[4:].startswith(b"Exif\0\0"):
            exif = segment[4:]
        is_metadata = 0xE0 <= marker <= 0xEF or marker == 0xFE
        if len(segment) >= JPEG_KEPT.get(marker, len(segment) + is_metadata):
            parts.append(segment)
        at += 2 + size


def _webp(data):
    parts, exif, at = [], None, 12
    while at + 8 <= len(data):
        kind, size = struct.unpack_from("<4sI", data, at)
        end = at + 8 + size + size % 2
        if kind == b"EXIF":
            exif = data[at + 8 : end]
        elif kind == b"VP8X":
            parts.append(
                data[at : at + 8] + bytes([data[at + 8] & ~WEBP_FLAGS]) + data[at + 9 : end]
            )
        elif kind not in WEBP_METADATA:
            parts.append(data[at:end])
        at = end
    body = b"WEBP" + b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(body)) + body, exif
