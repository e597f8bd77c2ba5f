"""Copies on this machine of what is in a bucket."""

import fcntl
import hashlib
import json
import os
import shutil

from etils import epath

from jaxdiff import buckets, files
from jaxdiff.errors import UserError


def local_copy(path):
    """A local file or folder of the same content: the path itself, or a copy of what is remote.

    A file or folder of a bucket is copied whole into $JAXDIFF_CACHE (~/.cache/jaxdiff if that is
    not set), once per host for all processes. A copy that is there is used while names, sizes and
    versions of the files in the bucket are the same.
    """
    if not buckets.is_remote(path):
        return path
    with files.reading(path):
        found = buckets.versions(path)
    if not found:
        raise UserError(f"{path} cannot be read (it does not exist): give another path.")
    digest = hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16]
    cache = epath.Path(os.environ.get("JAXDIFF_CACHE") or "~/.cache/jaxdiff").expanduser()
    if buckets.is_remote(cache):
        raise UserError(f"JAXDIFF_CACHE is {cache}: give a folder on this machine.")
    copy, partial = cache / digest / path.name, cache / f"{digest}.partial"
    with files.writing(cache):
        os.makedirs(cache, exist_ok=True)
        with open(cache / f"{digest}.lock", "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not os.path.exists(copy.parent):
                shutil.rmtree(partial, ignore_errors=True)  # of a program that was killed
                _check_room(path, cache, sum(size for _, size, _ in found))
                print(f"Copying {path} to {copy}.", flush=True)
                buckets.download(path, partial / path.name)
                os.rename(partial, copy.parent)
    return copy


def _check_room(path, cache, size):
    """Refuses to begin a copy for which the disk has no room."""
    free, _ = files.room(cache)
    if size > free:
        raise UserError(
            f"{path} takes {size / 1e9:.1f} GB, and {cache}, where it is copied to, has "
            f"{free / 1e9:.1f} GB: make room, or set JAXDIFF_CACHE to a larger folder."
        )
