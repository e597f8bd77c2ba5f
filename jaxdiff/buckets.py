"""Files in a bucket, beyond what `etils.epath` does; for `files`, `locks` and `local_copies`.

Errors are those of fsspec and of Google's client, which `files.reading` and `files.writing` turn
into sentences.
"""

import contextlib
import functools
import os

# Kinds of storage that epath opens, and the package that each needs.
PACKAGES = {"gs": "gcsfs", "s3": "s3fs", "az": "adlfs"}
# Packages whose errors are those of a bucket, whatever their classes.
ERRORS = {*PACKAGES.values(), "aiohttp", "azure", "botocore", "google"}


def is_remote(path):
    """Whether a path is an address, such as gs://bucket/run."""
    return "://" in os.fspath(path)


def kind(path):
    """The kind of an address, such as "gs"; "" for a local path."""
    return os.fspath(path).partition("://")[0] if is_remote(path) else ""


def storage(path):
    """The fsspec file system of an address."""
    import fsspec

    return fsspec.filesystem(kind(path))


def forget_listings():
    """Makes fsspec list a bucket each time it is asked: other processes write there as well."""
    import fsspec

    for name in ("gcs", *PACKAGES):
        fsspec.config.conf.setdefault(name, {})["use_listings_cache"] = False


def versions(path):
    """[name, size, version] of each file at or under an address, by name; of text and int."""
    found = storage(path).find(os.fspath(path), detail=True)
    keys = ("generation", "ETag", "etag", "mtime")
    return [
        [name, info["size"], next((str(info[key]) for key in keys if info.get(key)), "")]
        for name, info in sorted(found.items())
    ]


def _without_kind(path):
    return os.fspath(path).partition("://")[2]


def download(path, target):
    """Copies the file or folder at an address to a local path that is not there yet."""
    sources = storage(path).find(os.fspath(path))
    targets = [os.fspath(target) + source.removeprefix(_without_kind(path)) for source in sources]
    for file in targets:
        os.makedirs(os.path.dirname(file), exist_ok=True)
    storage(path).get(sources, targets)


def upload(folder, path, last=None):
    """Copies the files of a local folder to an address, the one of the name `last` at the end."""
    sources = [os.path.join(top, name) for top, _, found in os.walk(folder) for name in found]
    sources.sort(key=lambda source: os.path.basename(source) == last)
    targets = [os.fspath(path) + source.removeprefix(os.fspath(folder)) for source in sources]
    if last:
        storage(path).put(sources[:-1], targets[:-1])
        storage(path).put_file(sources[-1], targets[-1])
    else:
        storage(path).put(sources, targets)


def put(file, path, new):
    """Copies a local file to an address; with `new`, FileExistsError if there is something.

    Of programs that do so at once one succeeds, on gs://.
    """
    if new and kind(path) == "gs":
        is_written = swap(path, file, 0) is not None
    elif is_written := not (new and path.exists()):
        storage(path).put_file(os.fspath(file), os.fspath(path))
    if not is_written:
        raise FileExistsError(None, "There is something of that name")


def move(path, to, last=None):
    """Copies the file or folder at an address to another, and then removes the first.

    Files of the name `last` are copied last and removed first.
    """
    found = storage(path).find(os.fspath(path))
    found.sort(key=lambda source: os.path.basename(source) == last)
    for source in found:
        storage(path).cp_file(source, os.fspath(to) + source.removeprefix(_without_kind(path)))
    for source in found:
        if os.path.basename(source) == last:
            storage(path).rm(source)
    remove_tree(path)


def remove_tree(path):
    """Removes what is at or under an address; others may do the same."""
    if found := storage(path).find(os.fspath(path)):
        with contextlib.suppress(FileNotFoundError):  # nothing of it is there any more
            storage(path).rm(found)


def swap(path, content, generation):
    """Writes an object of gs:// if its generation is this one, 0 for none: compare and swap.

    Args:
      path: of the object.
      content: text, or the path of a local file that holds it.
      generation: that it is to have.

    Returns:
      Its new generation; None where it had another, and nothing was written.
    """
    from google.api_core.exceptions import PreconditionFailed

    blob = _blob(path)
    upload = blob.upload_from_string if isinstance(content, str) else blob.upload_from_filename
    try:
        upload(content, if_generation_match=generation)
    except PreconditionFailed:
        return None
    return blob.generation


def generation(path):
    """The generation of an object of gs://, which changes when it is written; 0 for none."""
    from google.api_core.exceptions import NotFound

    blob = _blob(path)
    try:
        blob.reload()
    except NotFound:
        return 0
    return blob.generation


def _blob(path):
    bucket, _, name = _without_kind(path).partition("/")
    return _client().bucket(bucket).blob(name)


@functools.cache
def _client():
    from google.cloud import storage

    return storage.Client()
