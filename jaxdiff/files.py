"""Files on a disk or in a bucket: the one module that opens, writes, moves and removes them.

A path is an `etils.epath.Path`: runs/birds, gs://bucket/run, or another address that epath opens.
What is refused, by the disk or the bucket, is raised as a UserError that names the path.

Writes are atomic: a file has its old content, or all of the new. In a bucket there are no folders:
one exists while something is in it, making one does nothing, and moving one copies its files.
"""

import contextlib
import errno
import hashlib
import importlib.util
import os
import re
import secrets
import shutil
import tempfile

from etils import epath

from jaxdiff import buckets
from jaxdiff.buckets import is_remote
from jaxdiff.checked_json import RESTORE, json_text, parse_json
from jaxdiff.errors import UserError
from jaxdiff.file_errors import WriteError, reading, writing


def parse_path(text, name):
    """The path that a user's text names.

    Args:
      text: a path or an address, such as runs/birds or gs://bucket/run.
      name: where it was given, for the message: "--out", "data.name".

    Raises:
      UserError: for an empty text, an address of another kind, or one whose package is not
        installed.
    """
    text = os.fspath(text)
    if not text:
        raise UserError(f"{name} is empty: give a path, or . for the folder you are in.")
    if not (match := re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/(/[^/])?", text)):
        return epath.Path(text)
    kind, package = match[1], buckets.PACKAGES.get(match[1])
    if package is None or match[2] is None:
        raise UserError(
            f"{name} is {text}, which cannot be opened: give a path on this machine, or an address "
            f"such as {', '.join(f'{known}://bucket/x' for known in buckets.PACKAGES)}."
        )
    if importlib.util.find_spec(package) is None:
        raise UserError(
            f"{name} is {text}, and {kind}:// needs the package {package}: pip install {package}."
        )
    buckets.forget_listings()
    return epath.Path(text)


def absolute(path):
    """The absolute path, as orbax needs it; an address is one already."""
    return path if is_remote(path) else epath.Path(os.path.abspath(path))


# What there is.


def exists(path):
    """Whether there is a file or a folder."""
    with reading(path):
        if is_remote(path):
            return path.exists()
        try:
            os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True


def is_folder(path):
    """Whether there is a folder; in a bucket, whether anything is in it."""
    return exists(path) and path.is_dir()


def names(folder):
    """Names of what is in a folder, sorted; none where there is no such folder."""
    with reading(folder):
        try:
            return sorted(filter(None, (path.name for path in folder.iterdir())))
        except (FileNotFoundError, NotADirectoryError):
            return []


def size(path):
    """Bytes of a file."""
    with reading(path):
        return path.stat().length


def room(path):
    """(free bytes, folder) of the disk that `path` is or will be on.

    Of a bucket it is the disk on which files for it are written first.
    """
    folder = epath.Path(tempfile.gettempdir()) if is_remote(path) else absolute(path)
    with reading(folder):
        while not folder.is_dir():
            folder = folder.parent
        return shutil.disk_usage(folder).free, folder


def walk(folder):
    """{path below a local folder: bytes} of all files in it, sorted by name.

    Links are followed, but none to a folder that it is in. A link to nothing has None bytes; what
    is neither a file nor a folder is left out.
    """
    found = {}

    def enter(path, inside, above):
        here = os.path.realpath(path)
        if here in above:
            return
        with reading(path), os.scandir(path) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.is_dir():
                    enter(entry.path, f"{inside}{entry.name}/", (*above, here))
                elif entry.is_file():
                    found[inside + entry.name] = entry.stat().st_size
                elif entry.is_symlink():
                    found[inside + entry.name] = None

    enter(os.fspath(folder), "", ())
    return found


# Reading.


@contextlib.contextmanager
def opened(path):
    """Yields a binary file for reading, which can be sought in."""
    with reading(path), path.open("rb") as file:
        yield file


def read_bytes(path):
    """The content of a file."""
    with opened(path) as file:
        return file.read()


def read_part(path, offset, size):
    """Bytes of a file from an offset on, fewer where it ends before."""
    with opened(path) as file:
        file.seek(offset)
        return file.read(size)


def read_text(path):
    """The content of a text file in UTF-8; UserError if it is not that."""
    try:
        return read_bytes(path).decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text in UTF-8: {RESTORE}.") from None


def sha256(path):
    """The SHA-256 of a file's content, hexadecimal."""
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Writing.


@contextlib.contextmanager
def replacing(path, new=False):
    """Yields a binary file to write and read, which becomes `path` at the end.

    Where writing fails `path` stays as it was, and nothing else is left. Folders above it are made.

    Args:
      path: of the file.
      new: whether what has that name already, even since just now, must not be replaced.

    Raises:
      WriteError: if the file cannot be written; with `new`, if there is something.
    """
    with writing(path), _temporary(path) as partial:
        with open(partial, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if is_remote(path):
            buckets.put(partial, path, new)
        elif new:
            _put_new(partial, path)
        else:
            os.replace(partial, path)


def _put_new(partial, path):
    """Gives a local file its name, unless there is something of that name."""
    try:
        os.link(partial, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        # A file system without links, such as of a memory stick.
        with open(partial, "rb") as source, open(path, "xb") as file:
            shutil.copyfileobj(source, file)


@contextlib.contextmanager
def _temporary(path):
    """Yields a new local path: beside `path` if that is local; what is there at the end is removed.

    The name is unique, so that programs that write the same file do not meet.
    """
    if is_remote(path):
        folder = epath.Path(tempfile.gettempdir())
    else:
        folder = path.parent
        os.makedirs(folder, exist_ok=True)
    partial = folder / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial"
    try:
        yield partial
    finally:
        remove_tree(partial)


@contextlib.contextmanager
def temporary_folder():
    """Yields a new local folder, which is removed at the end."""
    with tempfile.TemporaryDirectory() as folder:
        yield epath.Path(folder)


def write_bytes(path, content):
    """Writes a file, whole or not at all."""
    with replacing(path) as file:
        file.write(content)


def write_text(path, text):
    """Writes a text file in UTF-8, whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


@contextlib.contextmanager
def new_folder(path, last=None):
    """Yields a local folder to fill, which becomes `path` at the end: whole or not at all.

    Args:
      path: of the folder; it may exist if nothing is in it.
      last: name of the file that says that the folder is whole, which comes last in a bucket.

    Raises:
      WriteError: if it cannot be written, or something is there.
    """
    with writing(path), _temporary(path) as partial:
        os.mkdir(partial)
        yield partial
        if is_remote(path):
            if path.exists():
                raise FileExistsError(None, "There is something of that name")
            buckets.upload(partial, path, last)
        else:
            os.rename(partial, path)  # which fails where there is a file, or a folder with content


def make_folder(path):
    """Makes a folder and those above it; one that is there stays, and a bucket needs none."""
    if not is_remote(path):
        with writing(path):
            os.makedirs(path, exist_ok=True)


def remove(path):
    """Removes a file, if it is there."""
    with writing(path):
        path.unlink(missing_ok=True)


def remove_tree(path):
    """Removes a file or a folder with all that is in it, if it is there; others may do the same."""
    with writing(path):
        if is_remote(path):
            buckets.remove_tree(path)
        elif path.is_dir():
            while path.exists():  # what another program removed first ends rmtree
                with contextlib.suppress(FileNotFoundError):
                    shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def remove_if_empty(folder):
    """Removes a local folder in which nothing is; whatever else it is stays."""
    if not is_remote(folder):
        with contextlib.suppress(OSError):
            os.rmdir(folder)


def move(path, to, last=None):
    """Moves a file or a folder to a place where there is nothing; in a bucket, file by file.

    There files named `last`, which say that their folders are whole, come last and go first.
    """
    if exists(to):
        raise WriteError(to, "there is something of that name")
    with writing(to):
        if is_remote(path):
            buckets.move(path, to, last)
        else:
            os.makedirs(to.parent, exist_ok=True)
            os.rename(path, to)


def copy(path, to):
    """Copies a file, whole or not at all."""
    with opened(path) as source, replacing(to) as file:
        shutil.copyfileobj(source, file, 2**22)


def write_json(path, values):
    """Writes a dict as JSON with its checksum."""
    write_text(path, json_text(values))


def read_json(path, keys=(), advice=RESTORE):
    """The dict in a JSON file, without its checksum; UserError as `parse_json`."""
    return parse_json(read_text(path), path, keys, advice)
