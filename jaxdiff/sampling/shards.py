"""The shards of a sampling job: who samples which of them, and how far all are.

A shard is sampled by one process at a time, which holds its lock meanwhile. A process takes one
shard after the other that is neither there nor held, and ends when it finds no more. None waits for
another, but for a lock on gs:// whose holder may have been killed.
"""

import dataclasses
import time

import numpy as np
from etils import epath

from jaxdiff import files, locks, stopping
from jaxdiff.progress import progress_bar
from jaxdiff.sampling.samples import MANIFEST, SHARDS

SIZE = 1024  # samples of a shard
LOCKS = ".shard-*.lock"
LOOK = 10  # seconds after which the first process counts the shards of all again


@dataclasses.dataclass(frozen=True)
class Place:
    """The place of a process among those that sample one job.

    Attributes:
      index: its number, from 0.
      count: how many there are.
      is_fixed: whether it takes the shards k with k % count == index and no others.
    """

    index: int = 0
    count: int = 1
    is_fixed: bool = False

    def __str__(self):
        return f"{'Part' if self.is_fixed else 'Process'} {self.index} of {self.count}"

    def order(self, total):
        """Numbers of the shards that it may take, in the order in which it looks at them."""
        if self.is_fixed:
            return list(range(self.index, total, self.count))
        first = self.index * total // self.count
        return [*range(first, total), *range(first)]


@dataclasses.dataclass(frozen=True)
class Shards:
    """The shards of a job in its folder.

    Attributes:
      out: the folder.
      count: samples of the job.
      size: samples of a shard; the last one may have fewer.
    """

    out: epath.Path
    count: int
    size: int

    @property
    def total(self):
        """How many shards there are."""
        return -(-self.count // self.size)

    def path(self, number):
        """The file of a shard."""
        return self.out / SHARDS / f"{number:05d}-of-{self.total:05d}.npz"

    def lock(self, number):
        """The lock of a shard; it is not in the folder of shards, which is removed at the end."""
        return self.out / LOCKS.replace("*", f"{number:05d}")

    def numbers(self, number):
        """Numbers of the samples of a shard, int [n]."""
        return np.arange(number * self.size, min((number + 1) * self.size, self.count))

    def there(self):
        """Numbers of the shards that are there, in order."""
        names = {*files.names(self.out / SHARDS)}
        return [number for number in range(self.total) if self.path(number).name in names]

    def samples(self, numbers):
        """How many samples some shards have together."""
        return sum(len(self.numbers(number)) for number in numbers)

    def is_needed(self, number):
        """Whether a shard is still to be sampled: it is not there, nor is the job finished."""
        return not (files.exists(self.path(number)) or files.exists(self.out / MANIFEST))


def shard_paths(out, count, size):
    """Paths of the shards of `count` samples, in order."""
    shards = Shards(out, count, size)
    return [shards.path(number) for number in range(shards.total)]


def for_each_free(shards, place, function):
    """Calls `function(number)` for shards that are neither there nor held, each under its lock.

    Args:
      shards: Shards.
      place: the Place of this process.
      function: samples and writes a shard.

    Returns:
      Numbers of the shards that are held by others, who are alive.
    """
    watch, dead = locks.Watch(), {}
    while True:
        there, held, called = {*shards.there()}, [], 0
        for number in place.order(shards.total):
            if number in there:
                continue
            stopping.check()
            lock = shards.lock(number)
            release = locks.try_lock(lock, f"Shard {number} of {shards.out}", dead.get(lock, 0))
            if release is None:
                held.append(number)
                watch.see(lock)
                continue
            try:
                if shards.is_needed(number):
                    function(number)
                    called += 1
            finally:
                release()
        if called:
            continue  # others may have been killed meanwhile
        dead = watch.dead([shards.lock(number) for number in held])
        if not dead:
            return held


class Progress:
    """The progress bar of a job: samples of all shards that are there, whoever sampled them.

    Images a second and the time left are those of the whole job.

    Arguments:
      shards: Shards.
      quiet: whether another process shows it.
    """

    def __init__(self, shards, quiet):
        self._shards, self._quiet, self._own, self._looked = shards, quiet, 0, time.monotonic()
        self._there = shards.samples(shards.there())
        self._bar = progress_bar(shards.count, "image", initial=self._there, quiet=quiet)
        self._bar.smoothing = 0  # the mean rate: shards of others come all at once

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._bar.close()

    def update(self, count):
        """Counts samples of the shard that this process is on."""
        self._own += count
        self._show()

    def end_shard(self):
        """Counts the shard as one that is there."""
        self._own, self._looked = 0, -float("inf")
        self._show()

    def _show(self):
        if self._quiet:
            return
        if time.monotonic() - self._looked > LOOK:
            self._there = self._shards.samples(self._shards.there())
            self._looked = time.monotonic()
        self._bar.update(max(0, self._there + self._own - self._bar.n))
