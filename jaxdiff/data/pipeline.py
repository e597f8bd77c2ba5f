"""Shuffled, endless, deterministic batches, the same for any number of processes.

Batch k of a run is a function of the seed and k alone, so a run continues from its step. Process
p of P reads the p-th part of every global batch.
"""

from functools import lru_cache

import grain
import numpy as np
from absl import flags

from jaxdiff.parallel import processes

LENGTH = 2**62  # examples: practically endless, and within 64 bits


def batches(source, batch_size, seed, first_batch=0, workers=0):
    """An iterator over this process's part of each global batch, from `first_batch` on.

    Args:
      source: a `Source`.
      batch_size: examples in a global batch, a multiple of the number of processes.
      seed: of the order, which differs from epoch to epoch; in [0, 2^31).
      first_batch: number of the first batch.
      workers: processes that read and decode; 0: a thread of this one, which is best for data held
        in memory.

    Yields:
      {"x", "cond"} as `Source.fetch` returns them, of batch_size / processes examples.
    """
    part = batch_size // processes.count()
    mine = processes.index() * part + np.arange(part)

    def read(number):
        places = number * batch_size + mine
        return source.fetch(shuffled(places, len(source), seed))

    threads = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
    numbers = grain.MapDataset.range(first_batch, LENGTH // batch_size)
    dataset = numbers.map(read).to_iter_dataset(threads)
    if workers:
        flags.FLAGS.mark_as_parsed()  # Grain reads its own, also in programs without absl's flags
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return iter(dataset)


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
