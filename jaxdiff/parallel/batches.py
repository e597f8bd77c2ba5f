"""Calls a function on many samples, in batches of one size that are split over the devices."""

import collections
import contextlib
import itertools
from functools import partial

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxdiff import stopping
from jaxdiff.parallel import processes
from jaxdiff.parallel.mesh import batch_sharding, from_global
from jaxdiff.progress import progress_bar

_batches = itertools.count()  # of this process, as all processes of a job count them


def on_devices(function, shared, mesh):
    """`function` with its first arguments `shared`, jitted for `in_batches`."""
    return partial(jax.jit(function, out_shardings=batch_sharding(mesh)), *shared)


def even_size(count, batch_size):
    """Size of the fewest equal batches of at most `batch_size`, so that little is padded."""
    return -(-count // -(-count // batch_size))


def in_batches(function, fetch, count, **options):
    """Calls `function` on samples 0 .. count - 1, with a progress bar; arguments of `stream`.

    Returns:
      The tree, of NumPy arrays [count, ...], in every process.
    """
    parts = stream(function, fetch, count, **options)
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def stream(function, fetch, count, *, batch_size, mesh, quiet=False, bar=None, even=True, ahead=0):
    """Yields what `function` returns for samples 0 .. count - 1, batch by batch, in order.

    All batches have the same size, which the number of devices divides, so that one program is
    compiled: the last batch is padded by repeating its samples, and their results are dropped.

    Args:
      function: (*batch) -> a tree of arrays [B, ...], split over the devices like the batch; see
        `on_devices`.
      fetch: rows [B] int -> the batch, a tuple of trees of NumPy arrays [B, ...].
      count: how many samples there are.
      batch_size: samples at once over all devices, rounded up to a multiple of their number.
      mesh: the devices.
      quiet: leave out the progress bar.
      bar: a progress bar to update, in place of a new one.
      even: make batches of `even_size`; otherwise each has batch_size.
      ahead: how many batches are fetched while the devices compute an earlier one; none where
        they belong to several processes.

    Yields:
      The tree, of NumPy arrays [b, ...], in every process of the devices.
    """
    size = even_size(count, batch_size) if even else batch_size
    size = -(-size // mesh.size) * mesh.size
    sharding = batch_sharding(mesh)
    ahead = 0 if mesh.is_multi_process else ahead
    running = collections.deque()
    quiet = quiet or not processes.is_first()
    with (
        contextlib.nullcontext(bar)
        if bar is not None
        else progress_bar(count, "image", quiet=quiet) as bar
    ):

        def finished():
            rows, result = running.popleft()
            result = jax.tree.map(lambda array: array[: len(rows)], processes.gather(result))
            bar.update(len(rows))
            return result

        for start in range(0, count, size):
            _stop_if_asked(mesh)
            rows = np.arange(start, min(start + size, count))
            batch = fetch(np.resize(rows, size))
            batch = jax.tree.map(lambda array: from_global(array, sharding), batch)
            running.append((rows, function(*batch)))
            if len(running) > ahead:
                yield finished()
        while running:
            yield finished()


def _stop_if_asked(mesh):
    """Ends the processes that work on a mesh together, before a batch, where one received SIGTERM.

    JAX catches the signal then, and makes them agree. Previews are sampled within training, which
    asks by the numbers of its own steps.
    """
    stopping.check()
    if not (mesh.is_multi_process and stopping.is_listening()):
        return
    if multihost_utils.reached_preemption_sync_point(next(_batches)):
        stopping.stop()
