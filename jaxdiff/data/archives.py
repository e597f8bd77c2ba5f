"""The pictures in tar archives, read where they are: an archive is never unpacked.

Finding the pictures takes one pass over the headers, which seeks from one to the next and reads
none of the pictures; afterwards each is read by its offset, by whichever process needs it.
"""

import contextlib
import dataclasses
import hashlib
import tarfile

import numpy as np

from jaxdiff import files
from jaxdiff.arrays import load_npz, save_npz
from jaxdiff.errors import UserError
from jaxdiff.progress import progress_bar

BLOCK = 512  # bytes; a whole archive ends with blocks of zeros


@dataclasses.dataclass(frozen=True)
class Members:
    """Files in an archive.

    Attributes:
      names: bytes [N], without the folders that they are in.
      offsets, sizes: int64 [N]: where in the archive their content begins, and its bytes.
    """

    names: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray

    def __len__(self):
        return len(self.names)

    def sorted(self):
        """The same in the order of their names."""
        places = np.argsort(self.names, kind="stable")
        return Members(self.names[places], self.offsets[places], self.sizes[places])

    def sha256(self):
        """Of the names and sizes."""
        digest = hashlib.sha256()
        for name, size in zip(self.names.tolist(), self.sizes.tolist(), strict=True):
            digest.update(b"%s\0%d\n" % (name, size))
        return digest.hexdigest()


def members(path):
    """The Members of an archive.

    Raises:
      UserError: if it is no tar archive, or is not whole.
    """
    return _members(path, 0, files.size(path), path)


def _members(path, start, stop, name):
    """The Members of the archive in these bytes of a file."""
    found = []
    with files.opened(path) as file, _reading(name):
        file.seek(start)
        archive = tarfile.TarFile(fileobj=file)
        for info in archive:
            if info.issparse():  # its bytes are not those of the picture
                raise tarfile.ReadError(f"{info.name} in it is a sparse file")
            if info.offset_data + info.size > stop:
                raise _truncated(name)
            if info.isreg():
                base = info.name.rpartition("/")[2].encode(errors="surrogateescape")
                found.append((base, info.offset_data, info.size))
        # At a header that it cannot read, and where there is no more, tarfile ends without a word.
        file.seek(archive.offset)
        if archive.offset + BLOCK > stop or file.read(BLOCK) != bytes(BLOCK):
            raise _truncated(name) if found else tarfile.ReadError("it begins otherwise")
    names, offsets, sizes = zip(*found, strict=True) if found else ((), (), ())
    return Members(np.array(names, "S"), *(np.array(each, np.int64) for each in (offsets, sizes)))


@contextlib.contextmanager
def _reading(name):
    try:
        yield
    except tarfile.ReadError as error:
        if "end of data" in str(error) or "truncated" in str(error):
            raise _truncated(name) from None
        raise UserError(
            f"{name} is no tar archive ({error}): give the file as it was downloaded, not unpacked."
        ) from None


def _truncated(name):
    return UserError(
        f"{name} is not whole, as after a download that was cut off: compare its size and MD5 sum, "
        "and download it again."
    )


def inner(path, outer, mapped=map, cache=None):
    """The Members of all archives in an archive, in the order of `outer`, and how many of each.

    Args:
      path: of the archive that holds archives.
      outer: its own Members.
      mapped: (function, items) -> results in order.
      cache: folder in which the result is kept and found again; None: in none.

    Returns:
      (Members, int64 [len(outer)]).

    Raises:
      UserError: if one of them is no tar archive, or is not whole.
    """
    # The same files may have been packed in another order.
    key = hashlib.sha256(outer.sha256().encode() + outer.offsets.tobytes()).hexdigest()[:16]
    kept = None if cache is None else cache / f"index-{key}.npz"
    if kept is not None and files.exists(kept):
        arrays = load_npz(kept)
        return Members(*(arrays[key] for key in ("names", "offsets", "sizes"))), arrays["counts"]
    items = [
        (path, offset, offset + size, f"{name.decode(errors='replace')} in {path}")
        for name, offset, size in zip(
            outer.names.tolist(), outer.offsets.tolist(), outer.sizes.tolist(), strict=True
        )
    ]
    found = []
    with progress_bar(len(items), "archive") as bar:
        for each in mapped(_sorted, items):
            found.append(each)
            bar.update()
    counts = np.array([len(each) for each in found], np.int64)
    arrays = {
        key: np.concatenate([getattr(each, key) for each in found])
        for key in ("names", "offsets", "sizes")
    }
    if kept is not None:
        save_npz(kept, arrays | {"counts": counts})
    return Members(**arrays), counts


def _sorted(item):
    return _members(*item).sorted()
