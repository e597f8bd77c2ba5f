"""Files of named arrays (npz)."""

import contextlib
import dataclasses
import hashlib
import math
import struct
import zipfile
from collections.abc import Iterable
from functools import cached_property

import numpy as np
from etils import epath

from jaxdiff import files
from jaxdiff.errors import UserError

AGAIN = "download or write it again"
_LOCAL_HEADER = 30  # bytes before a member's name in a zip archive


def checksum(array):
    """Of an array's type, shape and values; of one that was broadcast, of what was broadcast."""
    head = f"{array.dtype} {array.shape}".encode()
    array = array[:1] if array.ndim and array.strides[0] == 0 else array
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Stream:
    """An array that comes in consecutive parts along its first axis, for `save_npz`.

    Attributes:
      shape: of the whole array.
      dtype: of it.
      parts: arrays [n, ...] whose lengths n add up to shape[0].
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    parts: Iterable[np.ndarray]


def save_npz(path, arrays):
    """Writes {name: array or Stream} as an npz file, whole or not at all.

    Of a Stream one part is in memory at a time. Equal arrays make equal files.

    Returns:
      The SHA-256 of the file, hexadecimal.
    """
    with files.replacing(path) as file:
        with zipfile.ZipFile(file, "w") as archive:
            for name, array in arrays.items():
                # A fixed date; sizes of more than 4 GB.
                with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                    if isinstance(array, Stream):
                        _write_parts(member, array)
                    else:
                        np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
        # Of the file on this machine, before it is copied to a bucket; zip archives are not written
        # from front to back.
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_parts(member, stream):
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(stream.dtype))}
    header |= {"fortran_order": False, "shape": tuple(stream.shape)}
    np.lib.format.write_array_header_1_0(member, header)
    for part in stream.parts:
        member.write(np.ascontiguousarray(part, stream.dtype).data)


def load_npz(path, only=None):
    """Arrays of an npz file, as a dict.

    Args:
      path: of the file.
      only: names of those that are wanted; None: all.

    Raises:
      UserError: if there is no such file or array, or it is corrupt.
    """
    with files.opened(path) as file, _corrupt(path), np.load(file) as arrays:
        return {name: arrays[name] for name in (arrays.files if only is None else only)}


@contextlib.contextmanager
def _corrupt(path):
    """Raises what the bytes of other files make of the readers as a UserError."""
    try:
        yield
    except Exception as error:
        if files.reason(error):
            raise
        # NumPy's own words for other files advise to allow pickles.
        reasons = {KeyError: str(error).strip("'"), MemoryError: "it is larger than the memory"}
        reason = reasons.get(type(error), "it is none, or is corrupt")
        raise UserError(
            f"{path} cannot be read as an npz file ({reason[:200]}): give another file."
        ) from error


@dataclasses.dataclass(frozen=True)
class Rows:
    """An array of an npz file, of which rows are read when they are asked for.

    Attributes:
      path: of the file; one in a bucket is copied to this machine at the first reading.
      name: of the array.
      shape, dtype: of it.
      offset: byte of the file at which its numbers begin; None where they are compressed or in
        Fortran's order: then the whole array is in memory after the first reading.
    """

    path: epath.Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int | None

    @cached_property
    def _local(self):
        return files.local_copy(self.path)

    @cached_property
    def _whole(self):
        return load_npz(self._local, [self.name])[self.name]

    def all(self):
        """The whole array."""
        return self._whole

    def read(self, rows):
        """The rows with these numbers, [B, ...].

        Raises:
          UserError: if the file cannot be read, or is shorter than it was.
        """
        rows = np.asarray(rows, np.int64)
        if self.offset is None or not len(rows):
            return self._whole[rows] if len(rows) else np.zeros((0, *self.shape[1:]), self.dtype)
        runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
        size = self.dtype.itemsize * math.prod(self.shape[1:])
        with files.opened(self._local) as file:
            parts = []
            for run in runs:
                file.seek(self.offset + int(run[0]) * size)
                parts.append(file.read(len(run) * size))
        content = b"".join(parts)
        if len(content) != len(rows) * size:
            raise UserError(f"{self.path} is shorter than it was when it was opened: {AGAIN}.")
        return np.frombuffer(content, self.dtype).reshape(len(rows), *self.shape[1:])


def open_npz(path):
    """{name: Rows} of all arrays of an npz file; only their headers are read.

    Raises:
      UserError: if there is no such file, or it is corrupt.
    """
    with files.opened(path) as file, _corrupt(path), zipfile.ZipFile(file) as archive:
        found = [_rows(path, archive, info) for info in archive.infolist()]
        return {rows.name: rows for rows in found}


def _rows(path, archive, info):
    with archive.open(info) as member:
        if np.lib.format.read_magic(member) == (1, 0):
            header = np.lib.format.read_array_header_1_0(member)
        else:  # version 3 differs from 2 in the names of fields alone
            header = np.lib.format.read_array_header_2_0(member)
        shape, is_fortran, dtype = header
        start = member.tell()
    if not dtype.hasobject and start + dtype.itemsize * math.prod(shape) != info.file_size:
        raise ValueError(f"{info.filename} is incomplete")
    name, offset = info.filename.removesuffix(".npy"), None
    if info.compress_type == zipfile.ZIP_STORED and not (is_fortran or dtype.hasobject):
        archive.fp.seek(info.header_offset)
        # The lengths of the name and of the extra field, which follow.
        lengths = struct.unpack("<HH", archive.fp.read(_LOCAL_HEADER)[-4:])
        offset = info.header_offset + _LOCAL_HEADER + sum(lengths) + start
    return Rows(path, name, tuple(shape), dtype, offset)


def check_npz(path):
    """Raises UserError if the content of an npz file does not have the checksums that it says."""
    with files.opened(path) as file, _corrupt(path), zipfile.ZipFile(file) as archive:
        if name := archive.testzip():
            raise ValueError(name)
