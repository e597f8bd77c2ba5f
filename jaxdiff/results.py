"""Files of results: whole or not there at all, and never those of another request."""

import csv
import json
import os
import zipfile
import zlib

import numpy as np

from jaxdiff.errors import UserError
from jaxdiff.parallel import processes


def replace(path, write):
    """Writes a file, `write(file)`, under another name first, so that it is never half there."""
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "wb") as file:
        write(file)
    partial.replace(path)


def samples_file(path):
    """The file itself, or the one file samples_*.npz of a folder that sample.py wrote.

    Raises:
      UserError: if the folder does not hold one.
    """
    if not path.is_dir():
        return path
    files = sorted(path.glob("samples_*.npz"))
    if len(files) != 1:
        raise UserError(f"{path} holds {len(files)} files samples_*.npz: name one of them.")
    return files[0]


def load(path):
    """All arrays of an npz file, as a dict.

    Raises:
      UserError: if there is no such file, or it is damaged.
    """
    try:
        with np.load(path) as arrays:
            return dict(arrays)
    except (OSError, EOFError, ValueError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        reason = getattr(error, "strerror", None) or "it is not a whole npz file"
        raise UserError(f"{path} cannot be read ({reason}): give an npz file of arrays.") from None


def claim(path, settings):
    """Makes sure, before anything is computed, that `save` can write there.

    Raises:
      UserError: if the file cannot be written, or holds what other settings gave.
    """
    if path.is_file():
        old = json.loads(load(path).get("settings", np.array("{}")).item())
        if different := [k for k, v in settings.items() if old.get(k) != v]:
            raise UserError(
                f"{path} holds the results of another request, with another "
                f"{', '.join(different)}: choose another --out."
            )
    try:
        if path.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        if processes.is_first():
            path.parent.mkdir(parents=True, exist_ok=True)
            probe = path.with_name(f".{path.name}.probe-{os.getpid()}")
            probe.touch()
            probe.unlink()
    except OSError as error:
        raise UserError(
            f"The file {path} cannot be written ({error.strerror}): choose another --out."
        ) from None
    processes.barrier("out")


def save(path, settings, arrays):
    """Writes a dict of arrays as npz, and beside them `settings`, as JSON text."""
    if processes.is_first():
        replace(path, lambda file: np.savez(file, settings=json.dumps(settings), **arrays))


def read_rows(path):
    """Rows of a CSV file with a header, as dicts of text; what was cut off while written is none.

    Empty where there is no file.
    """
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    return list(csv.DictReader(line for line in lines if line.endswith("\n")))


def add_row(path, row):
    """Adds {column: value} to a CSV file, which stays whatever happens next; in one process."""
    if not processes.is_first():
        return
    text = path.read_text() if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    with open(path, "a", newline="") as file:
        file.truncate(len(whole.encode()))
        writer = csv.DictWriter(file, row, lineterminator="\n")
        if not whole:
            writer.writeheader()
        writer.writerow(row)
        file.flush()
        os.fsync(file.fileno())


def claim_folder(out, settings, name):
    """Makes the folder `out` with its settings in a JSON file, or checks that it has these.

    Raises:
      UserError: if the folder cannot be written, or holds the results of other settings.
    """
    path, problem = out / name, None
    settings = json.loads(json.dumps(settings))  # as they will be read
    try:
        old = json.loads(path.read_text()) if path.exists() else None
        if old is None and processes.is_first():
            out.mkdir(parents=True, exist_ok=True)
            replace(path, lambda file: file.write((json.dumps(settings, indent=2) + "\n").encode()))
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", None) or f"{name} is damaged"
    if processes.any_process(problem is not None):
        problem = problem or "says another process"
        raise UserError(f"The folder {out} cannot be written ({problem}): choose another --out.")
    if different := [k for k, v in settings.items() if old and old.get(k) != v]:
        raise UserError(
            f"{out} holds the results of another request, with another {', '.join(different)}: "
            "choose another --out."
        )
    processes.barrier("out")
