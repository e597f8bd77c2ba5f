"""A disk that refuses: files that may not grow, and folders that may not be read."""

import contextlib
import os
import resource
import tempfile


@contextlib.contextmanager
def small_files(size):
    """No file of this process may have more bytes, which writers are told as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def with_mode(path, mode):
    """A file or folder below pytest's folder has this mode; for root too, who becomes another."""
    before, root = path.stat().st_mode, os.geteuid() == 0
    path.chmod(mode)
    if root:
        for parent in path.parents:
            if parent.is_relative_to(tempfile.gettempdir()):
                parent.chmod(parent.stat().st_mode | 0o055)
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        path.chmod(before)
