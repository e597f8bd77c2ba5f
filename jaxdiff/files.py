"""Paths that users give, and JSON files that carry a checksum of their own content."""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import secrets
import shutil

from jaxdiff.errors import UserError

CHECKSUM = "checksum"  # the field that holds it
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")


def local_path(text, name):
    """The path that a text names, on a file system that is mounted here.

    Args:
      text: a path, such as runs/digits.
      name: where it was given, for the message: "--out", "data.name".

    Raises:
      UserError: for an address such as gs://bucket/x, which `pathlib` would take for the local
        folder gs:/bucket/x.
    """
    if match := SCHEME.match(str(text)):
        raise UserError(
            f"{name} is {text}, and storage of the kind {match[1]}:// cannot be read or written "
            "yet: give a path on a disk of this machine, or mount the bucket and give its path."
        )
    return pathlib.Path(text)


@contextlib.contextmanager
def replacing(path):
    """Yields a new path beside `path` to write to, which then replaces it: whole or not at all.

    The name is unique, so that programs that write the same file do not meet; where writing fails
    nothing is left.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def creating(path):
    """Yields a new path beside `path` to make a file or a folder at, which then takes that name.

    Whole or not at all: where making it fails nothing is left, and what has that name already,
    even since just now, stays as it is. An empty folder may make room for a folder.

    Raises:
      OSError: if there is something of that name, or it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        yield partial
        if partial.is_dir():
            partial.rename(path)  # which fails where there is a file, or a folder with content
        else:
            path.touch(exist_ok=False)
            partial.replace(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


class BadJson(Exception):
    """A JSON file that cannot be used; the message says why, to follow the file's name."""


def write_json(path, values):
    """Writes a dict as JSON with a checksum of itself, under another name first."""
    with replacing(path) as partial:
        partial.write_text(json_text(values), "utf-8")


def json_text(values):
    """What `write_json` writes: the dict with its checksum."""
    return json.dumps(with_checksum(values), indent=2) + "\n"


def with_checksum(values):
    """A dict of JSON values, and in the field "checksum" the SHA-256 of the rest."""
    return {**values, CHECKSUM: _checksum(values)}


def read_json(path, keys=(), checksum=True, advice="restore the file from a copy"):
    """The dict in a JSON file, without its checksum.

    Args:
      path: the file.
      keys: fields that it must have.
      checksum: whether it must hold a checksum of itself that matches, as `write_json` writes it;
        None: one that it holds must match.
      advice: what to do about a damaged file, to end the message.

    Raises:
      UserError: if the file cannot be read, is not JSON in UTF-8, is not a dict with these keys, or
        was changed since it was written.
    """
    try:
        return load_json(path, keys, checksum)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): see that it is a file that you may read."
        ) from None
    except BadJson as error:
        raise UserError(f"{path} {error}: {advice}.") from None


def load_json(path, keys=(), checksum=True):
    """As `read_json`, for those who say themselves what to do; raises BadJson or OSError."""
    return _parse(path.read_bytes(), keys, checksum)


def parse_json(content, name, advice, keys=(), checksum=True):
    """As `read_json`, for text or bytes that are part of something, whose name is `name`."""
    try:
        return _parse(content, keys, checksum)
    except BadJson as error:
        raise UserError(f"{name} {error}: {advice}.") from None


def _parse(content, keys, checksum):
    try:
        text = content.decode("utf-8") if isinstance(content, bytes) else content
        values = json.loads(text, object_pairs_hook=_without_repeats)
        reason = _flaw(values, keys, checksum)
    except UnicodeDecodeError:
        reason = "is not text in UTF-8"
    except RecursionError:
        reason = "is not JSON that can be read, as it is nested too deeply"
    except ValueError as error:
        reason = f"is not JSON ({error})"
    if reason:
        raise BadJson(reason)
    return {name: value for name, value in values.items() if name != CHECKSUM}


def _flaw(values, keys, checksum):
    """What is wrong with the content of a file, to follow its name; or None."""
    if not isinstance(values, dict):
        return f"holds {type(values).__name__} where a dict of names to values was expected"
    if missing := [name for name in keys if name not in values]:
        return f"lacks {', '.join(missing)}"
    if checksum is False:
        return None
    if CHECKSUM not in values:
        return "lacks the checksum of itself that it was written with" if checksum else None
    if values[CHECKSUM] != _checksum(values):
        return "has been changed since it was written, as its checksum says"
    return None


def _without_repeats(pairs):
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a name stands twice in one dict")
    return values


def _checksum(values):
    rest = {name: value for name, value in values.items() if name != CHECKSUM}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
