"""Files of results: claimed before work begins, whole or not there, never another request's."""

import contextlib
import csv
import json
import math
import os
import zipfile

import numpy as np

from jaxdiff import files
from jaxdiff.errors import UserError
from jaxdiff.locks import LOCK, held
from jaxdiff.parallel import processes
from jaxdiff.parallel.memory import physical_memory

# What makes a folder one of something else: of a run, of a dataset.
OTHERS = {"config.json": "a run", "dataset_info.json": "a dataset"}
MOST_COMPRESSED = 1100  # deflate reaches 1,032


def replace(path, write):
    """Writes a file, `write(file)`, under another name first, so that it is never half there.

    Raises:
      UserError: if it cannot be written.
    """
    with _writing(path), files.replacing(path) as partial, open(partial, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _writing(path):
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}): free the disk, or choose "
            "another --out."
        ) from None


def samples_file(path):
    """The file itself, or the one file samples_*.npz of a folder that sample.py wrote.

    Raises:
      UserError: if the folder does not hold one.
    """
    try:
        if not path.is_dir():
            return path
        found = sorted(path.glob("samples_*.npz"))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give another file.") from None
    if len(found) != 1:
        raise UserError(f"{path} holds {len(found)} files samples_*.npz: name one of them.")
    return found[0]


def load(path):
    """All arrays of an npz file, as a dict.

    Raises:
      UserError: if there is no such file, it is damaged, or is larger than the memory.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(_array_bytes(archive, info, path) for info in archive.infolist())
        if size > physical_memory():
            raise UserError(
                f"{path} holds arrays of {size / 1e9:.3g} GB, and this machine has "
                f"{physical_memory() / 1e9:.3g} GB of memory: give a smaller file."
            )
        with np.load(path) as arrays:
            return dict(arrays)
    except UserError:
        raise
    except Exception as error:  # whatever the bytes of a file that is none make of the readers
        reason = getattr(error, "strerror", None) or "it is not a whole npz file"
        raise UserError(f"{path} cannot be read ({reason}): give an npz file of arrays.") from None


def _array_bytes(archive, info, path):
    """How many bytes an array of an npz file takes in memory, known before any is taken."""
    if info.compress_size > path.stat().st_size:
        raise ValueError("more than there is")
    if info.file_size > MOST_COMPRESSED * info.compress_size:
        raise ValueError("more than can be in it")
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, _, dtype = header(file)
        size = math.prod(shape) * dtype.itemsize
        if size != info.file_size - file.tell():
            raise ValueError("the header is not that of these bytes")
    return size


def in_first(function, *args):
    """What `function` returns in the first process, None in others; its UserError is all's."""
    result = problem = None
    if processes.is_first():
        try:
            result = function(*args)
        except UserError as error:
            problem = error
    if processes.any_process(problem is not None):
        raise problem or UserError("The first process says what is wrong.")
    return result


@contextlib.contextmanager
def claimed_folder(out, settings, name, own=()):
    """Holds a folder for the results of one request while the context is open.

    The settings are written first, and stay; what fails before any result is there takes them back.

    Args:
      out: the folder, made if it is not there.
      settings: of the request, a dict that JSON can hold.
      name: of the JSON file that keeps them.
      own: patterns of files that will be written, which nobody else may have written there.

    Raises:
      UserError: if the folder is a run's or a dataset's, cannot be written, is in use by another
        program, or holds the results of other settings or files of somebody else.
    """
    is_new = in_first(_make, out)
    try:
        with held(out / LOCK, f"The folder {out}"):
            in_first(_claim, out, settings, name, own)
            try:
                yield
            except BaseException:
                if processes.is_first() and {p.name for p in out.iterdir()} <= {name, LOCK}:
                    (out / name).unlink(missing_ok=True)
                raise
    except BaseException:
        if is_new:
            with contextlib.suppress(OSError):  # it holds something
                out.rmdir()
        raise


def _make(out):
    """Makes a folder of results, unless it is something else's; whether it is a new one."""
    try:
        for file, kind in OTHERS.items():
            if (out / file).exists():
                raise UserError(
                    f"{out} is the folder of {kind}, as it holds {file}: choose another --out."
                )
        is_new = not out.exists()
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable("folder", out, error) from None
    return is_new


def _claim(out, settings, name, own):
    path = out / name
    if path.exists():
        old = files.read_json(path, advice="choose another --out, or delete that folder")
        check_same(out, old, settings)
        return
    theirs = sorted(p.name for pattern in own for p in out.glob(pattern))
    if theirs:
        raise UserError(
            f"{out} holds {theirs[0]}, but no {name} that says what made it: choose another --out."
        )
    with _writing(path):
        files.write_json(path, settings)


def check_same(out, old, settings):
    """Refuses results of settings, as they were read, other than these.

    Raises:
      UserError: naming what differs.
    """
    settings = json.loads(json.dumps(settings))  # as they would be read
    if different := [k for k in {**settings, **old} if k not in old or old[k] != settings.get(k)]:
        raise UserError(
            f"{out} holds the results of another request, with another {', '.join(different)}: "
            "choose another --out."
        )


def _unwritable(kind, path, error):
    reason = error.strerror or error
    return UserError(f"The {kind} {path} cannot be written ({reason}): choose another --out.")


@contextlib.contextmanager
def claimed_file(path, settings):
    """The same for one npz file, which `save` writes with its settings inside.

    Raises:
      UserError: if it cannot be written, is in use by another program, or holds something else.
    """
    in_first(_make_parent, path)
    with held(path.with_name(f".{path.name}.lock"), f"The file {path}"):
        in_first(_check_file, path, settings)
        yield


def _make_parent(path):
    try:
        if path.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable("file", path, error) from None


def _check_file(path, settings):
    if not path.exists():
        return
    advice = "choose another --out"
    try:
        text = str(load(path)["settings"])
    except (UserError, KeyError):
        raise UserError(f"{path} is not a file that this command wrote: {advice}.") from None
    check_same(path, files.parse_json(text, f"What says what made {path}", advice), settings)


def save(path, settings, arrays):
    """Writes a dict of arrays as npz, and beside them `settings`, as JSON text."""
    if processes.is_first():
        text = files.json_text(settings)
        replace(path, lambda file: np.savez(file, settings=text, **arrays))


def read_rows(path, columns):
    """Rows of a CSV file with a header; a line that was cut off while it was written is none.

    Args:
      path: of the file; empty where there is none.
      columns: {name: function of a text, which raises ValueError for a wrong one}, all of them and
        in order.

    Raises:
      UserError: for anything else in the file, by the number of its line.
    """
    if not path.exists():
        return []
    try:
        lines = path.read_bytes().decode().splitlines(keepends=True)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text in UTF-8"
        raise UserError(f"{path} cannot be read ({reason}): restore it from a copy.") from None
    header, *rows = [line for line in lines if line.endswith("\n")] or [None]
    if header is None:
        return []
    if _cells(header) != list(columns):
        raise _bad_line(path, 1)
    found = []
    for number, line in enumerate(rows, 2):
        cells = _cells(line)
        if len(cells) != len(columns):
            raise _bad_line(path, number)
        try:
            pairs = zip(columns.items(), cells, strict=True)
            found.append({name: read(cell) for (name, read), cell in pairs})
        except ValueError:
            raise _bad_line(path, number) from None
    return found


def _cells(line):
    try:
        return next(csv.reader([line], strict=True), [])
    except csv.Error:
        return []


def _bad_line(path, number):
    return UserError(
        f"Line {number} of {path} is not what is written there: restore the file from a copy, or "
        "choose another --out."
    )


def add_row(path, row):
    """Adds {column: value} to a CSV file, which stays whatever happens next; in one process.

    Raises:
      UserError: if it cannot be written.
    """
    if not processes.is_first():
        return
    with _writing(path):
        text = path.read_text("utf-8") if path.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        with open(path, "a", newline="", encoding="utf-8") as file:
            file.truncate(len(whole.encode()))
            writer = csv.DictWriter(file, row, lineterminator="\n")
            if not whole:
                writer.writeheader()
            writer.writerow(row)
            file.flush()
            os.fsync(file.fileno())
