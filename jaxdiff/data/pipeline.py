"""Shuffled, endless, deterministic batches, the same for any number of processes.

Batch k of a run is a function of the seed and k alone, so a run continues from its step. Process
p of P reads the p-th part of every global batch.
"""

import grain
import numpy as np

from jaxdiff.data.order import shuffled
from jaxdiff.parallel import processes

LENGTH = 2**62  # examples: as good as endless, and what 64 bits can count


def batches(source, batch_size, seed, first_batch=0, workers=0):
    """An iterator over this process's part of each global batch, from `first_batch` on.

    Args:
      source: a `Source`.
      batch_size: examples in a global batch, a multiple of the number of processes.
      seed: of the order, which differs from epoch to epoch; in [0, 2^31).
      first_batch: number of the first batch.
      workers: processes that read and decode; 0 does it in a thread of this one, which is best
        for data held in memory.

    Yields:
      What `Source.fetch` returns, for batch_size / processes examples.
    """
    part = batch_size // processes.count()
    mine = processes.index() * part + np.arange(part)

    def read(number):
        return source.fetch(shuffled(number * batch_size + mine, len(source), seed))

    threads = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
    numbers = grain.MapDataset.range(first_batch, LENGTH // batch_size)
    dataset = numbers.map(read).to_iter_dataset(threads)
    if workers:
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return iter(dataset)
