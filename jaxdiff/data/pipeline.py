"""Shuffled, endless, deterministic batches, the same for any number of processes.

Batch k of a run is a function of the seed and k alone, so a run continues from its step. Of every
global batch a process reads the rows that its own devices take.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from functools import lru_cache
from multiprocessing import resource_tracker

import grain
import numpy as np
from absl import flags, logging

from jaxdiff.errors import UserError

SIGNALS = (signal.SIGTERM, signal.SIGINT)
LENGTH = 2**62  # examples: practically endless, and within 64 bits


def batches(source, batch_size, seed, first_batch=0, workers=0, rows=None):
    """An iterator over this process's part of each global batch, from `first_batch` on.

    Args:
      source: a `Source`.
      batch_size: examples in a global batch.
      seed: of the order, which differs from epoch to epoch; in [0, 2^31).
      first_batch: number of the first batch.
      workers: processes that read and decode, each of which holds up to six batches of b; 0: a
        thread of this one, which is best for data held in memory.
      rows: int [b], of each global batch those that this process reads, such as `mesh.rows_here`;
        None: all.

    Yields:
      {"x", "cond"} as `Source.fetch` returns them, of b examples.

    Raises:
      UserError: for examples that cannot be read, and if a worker ends.
    """
    mine = np.arange(batch_size) if rows is None else np.asarray(rows)

    def read(number):
        places = number * batch_size + mine
        return source.fetch(shuffled(places, len(source), seed))

    threads = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
    numbers = grain.MapDataset.range(first_batch, LENGTH // batch_size)
    dataset = numbers.map(read).to_iter_dataset(threads)
    if workers:
        flags.FLAGS.mark_as_parsed()  # Grain reads its own, also in programs without absl's flags
        options = grain.MultiprocessingOptions(num_workers=workers)
        dataset = dataset.mp_prefetch(options, worker_init_fn=_begin_worker)
    with contextlib.closing(iter(dataset)) as iterator:
        with _signals_blocked() if workers else contextlib.nullcontext():
            batch = _next(iterator, workers)
        while True:
            yield batch
            batch = _next(iterator, workers)


def _next(iterator, workers):
    try:
        return next(iterator)
    except RuntimeError as error:
        if not workers or "terminated" not in str(error):
            raise
        raise UserError(
            f"One of the {workers} processes that read the data (data.workers) has ended "
            "unexpectedly; if this machine was out of memory, lower data.workers or "
            "training.batch_size, and give the same command again."
        ) from error


@contextlib.contextmanager
def _signals_blocked():
    """Blocks signals in this thread, and so in the processes that it starts meanwhile."""
    resource_tracker.ensure_running()  # its start would let them through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_worker(*_):
    """Leaves signals to the program, ends with it, and logs no warnings, as it does.

    Slurm, Kubernetes and Ctrl-C send them to all processes of a job, and the step in progress needs
    its data still. A program that is killed cannot end its workers.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_program, daemon=True).start()
    logging.set_verbosity(logging.ERROR)  # TFDS recommends OpenCV, in every worker


def _end_with_program():
    multiprocessing.parent_process().join()
    os._exit(1)


def shuffled(places, size, seed):
    """The examples at these places of an endless order, every epoch of which holds each once.

    Args:
      places: [B] integers, not negative.
      size: how many examples there are.
      seed: of the order.

    Returns:
      [B] int64 in [0, size).
    """
    # Whole epochs at once: Grain's shuffle, one example at a time, takes longer than a small
    # network's training step.
    epochs, numbers = np.divmod(places, size)
    examples = np.empty_like(numbers)
    for epoch in np.unique(epochs):
        inside = epochs == epoch
        examples[inside] = _epoch(seed, int(epoch), size)[numbers[inside]]
    return examples


@lru_cache(maxsize=2)
def _epoch(seed, epoch, size):
    """The order of one epoch; of a RandomState, whose numbers no later NumPy changes."""
    return np.random.RandomState([seed, epoch]).permutation(size)
