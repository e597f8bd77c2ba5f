"""The results of a job from its shards, of which two at a time are in memory."""

import fnmatch
import math

import numpy as np

from jaxdiff import claims, files, locks, stopping
from jaxdiff.arrays import load_npz
from jaxdiff.errors import UserError
from jaxdiff.file_errors import reason
from jaxdiff.memory import size_text
from jaxdiff.sampling import finite, image_grid
from jaxdiff.sampling.samples import MANIFEST, SETTINGS, SHARDS, Samples, write
from jaxdiff.sampling.shards import LOCKS

RESULTS = ("sha256", "non_finite")  # what a manifest has beside the settings


class CorruptShard(UserError):
    """A shard that cannot be read as it was written.

    Arguments:
      path: of it.
      number: of it; also an attribute.
      reason: in a sentence without its end; also an attribute.
    """

    def __init__(self, path, number, reason):
        super().__init__(f"{reason}: remove {path}, and repeat the command.")
        self.number, self.reason = number, reason


def merge(job, shards, settings):
    """Makes the results of the shards, which are then removed.

    Returns:
      The manifest.

    Raises:
      InUse: if another process merges them.
      CorruptShard: if one cannot be read.
      UserError: if the disk has no room.
    """
    out = shards.out
    with locks.own_lock(out / locks.LOCK, f"The folder {out}"):
        if files.exists(out / MANIFEST):
            return manifest(out, settings)
        claims.claim(out, settings, SETTINGS)  # unless somebody removed them, they are there
        claims.remove_partial(out)
        try:
            found = _merge(job, shards, settings)
        except UserError:
            if files.exists(out / MANIFEST):  # by another process, where there are no locks
                return manifest(out, settings)
            raise
        _remove_shards(out)
        return found


def _merge(job, shards, settings):
    bad = [_load(shards, number, finite.ARRAY) for number in range(shards.total)]
    tiles, left = [], image_grid.MOST_TILES
    for number in range(min(shards.total, -(-left // shards.size))):
        tiles.append(_images(shards, number)[:left].copy())
        left -= len(tiles[-1])
    samples = Samples(
        images=np.concatenate(tiles),
        cond=job.cond,
        class_names=job.class_names,
        non_finite=np.concatenate(bad),
    )
    _check_room(shards, samples.images)

    def parts():
        for number in range(shards.total):
            stopping.check()
            yield _images(shards, number)

    return write(shards.out, samples, settings, parts(), shards.count)


def _images(shards, number):
    images, count = _load(shards, number, "images"), len(shards.numbers(number))
    if len(images) != count:
        path = shards.path(number)
        raise CorruptShard(path, number, f"{path} holds {len(images)} samples, not {count}")
    return images


def _load(shards, number, name):
    """An array of a shard."""
    path = shards.path(number)
    try:
        return load_npz(path, [name])[name]
    except UserError as error:
        if reason(error.__cause__):  # the disk or the bucket does not give it
            raise
        raise CorruptShard(path, number, str(error).rpartition(":")[0]) from None


def _check_room(shards, images):
    """Refuses to merge where the disk has no room for the file."""
    size = shards.count * math.prod(images.shape[1:]) * images.dtype.itemsize
    free, folder = files.room(shards.out / MANIFEST)
    if size > free:
        advice = "set TMPDIR to a larger folder" if files.is_remote(shards.out) else "make room"
        raise UserError(
            f"The {shards.count:,} samples take {size_text(size)}, and {folder}, where they are "
            f"merged, has {size_text(free)}: {advice}, and repeat the command, which merges the "
            "shards."
        )


def _remove_shards(out):
    files.remove_tree(out / SHARDS)
    for name in fnmatch.filter(files.names(out), LOCKS):
        files.remove(out / name)


def manifest(out, settings):
    """The manifest of these very settings.

    Raises:
      UserError: if it is of others.
    """
    found = files.read_json(out / MANIFEST, RESULTS, advice=claims.OUT)
    own = {name: value for name, value in found.items() if name not in RESULTS}
    claims.check_same(out, own, settings)
    return found


def finished(out, settings):
    """The manifest of these very settings, if all its files are there; else None.

    What is in a bucket is not read again.

    Raises:
      UserError: if one of the files was changed.
    """
    if not files.exists(out / MANIFEST):
        return None
    found = manifest(out, settings)
    for name, checksum in found["sha256"].items():
        if not files.exists(out / name):
            files.remove(out / MANIFEST)
            return None
        if not files.is_remote(out) and files.sha256(out / name) != checksum:
            raise UserError(f"{out / name} was changed since it was written: {claims.OUT}.")
    _remove_shards(out)  # of a process that was killed after it wrote the manifest
    print(f"The {settings['num_samples']} samples of this request are in {out} already.")
    return found
