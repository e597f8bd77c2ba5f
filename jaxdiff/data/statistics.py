"""The standard deviation of a dataset, which EDM's process is scaled by."""

import math

import numpy as np

from jaxdiff.errors import UserError

MOST = 50_000  # images that are looked at
VALUES = 2**22  # of images, in memory at once


def standard_deviation(source):
    """The standard deviation of all values in [-1, 1], about their mean.

    Sums are of integers, so it is exact but for the last rounding to float64, and the same in
    every process. Of a split of more than MOST images so many are read, spread evenly over it;
    none is augmented.

    Args:
      source: a Source of uint8 images.

    Raises:
      UserError: if there is nothing but one value.
    """
    count = min(len(source), MOST)
    numbers = np.arange(count) * len(source) // count
    rows = max(1, VALUES // source.fetch(numbers[:1])["x"].size)
    counts = np.zeros(256, np.int64)
    for start in range(0, count, rows):
        images = source.fetch(numbers[start : start + rows])["x"]
        counts += np.bincount(images.ravel(), minlength=256)
    number, total, squares = (
        sum(int(n) * value**power for value, n in enumerate(counts)) for power in range(3)
    )
    spread = number * squares - total**2
    if not spread:
        raise UserError(
            "All values of the training images are the same, so they have no standard deviation: "
            "check data.name, or set diffusion.data_std."
        )
    return math.sqrt(spread / number**2) / 127.5  # in [-1, 1]
