"""Files of named arrays (npz)."""

import dataclasses
import hashlib
import zipfile
from collections.abc import Iterable

import numpy as np

from jaxdiff import files
from jaxdiff.errors import UserError


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
    """
    with files.replacing(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            # A fixed date; sizes of more than 4 GB.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                if isinstance(array, Stream):
                    _write_parts(member, array)
                else:
                    np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


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
    with files.opened(path) as file:
        try:
            with np.load(file) as arrays:
                return {name: arrays[name] for name in (arrays.files if only is None else only)}
        except OSError:
            raise
        except Exception as error:  # whatever the bytes of other files make of the readers
            # NumPy's own words for other files advise to allow pickles.
            reasons = {KeyError: str(error).strip("'"), MemoryError: "it is larger than the memory"}
            reason = reasons.get(type(error), "it is none, or is corrupt")
            raise UserError(
                f"{path} cannot be read as an npz file ({reason[:200]}): give another file."
            ) from error
