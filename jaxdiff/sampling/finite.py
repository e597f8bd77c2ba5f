"""Samples that are not finite: counted, marked, and never written as if they were pictures."""

import numpy as np

from jaxdiff.data.images import to_uint8
from jaxdiff.errors import UserError

FIRST = 10  # numbers that are listed
ARRAY = "non_finite"  # of a file of samples, the numbers of those that are not


def non_finite(samples):
    """Numbers [K] int of the samples [N, ...] that hold NaN or an infinity."""
    return np.flatnonzero(~np.isfinite(samples).reshape(len(samples), -1).all(1))


def summary(numbers):
    """How many they are and the first of their numbers, as a manifest has it."""
    return {"count": len(numbers), "first": [int(number) for number in numbers[:FIRST]]}


def about(found, count, what="samples"):
    """A `summary` in words: "3 of 64 samples are not finite (by number: 0, 5, 6)"."""
    more = ", ..." if found["count"] > len(found["first"]) else ""
    numbers = ", ".join(map(str, found["first"])) + more
    return f"{found['count']} of {count} {what} are not finite (by number: {numbers})"


def refuse_marked(arrays, path):
    """Refuses a file of samples, a dict of arrays, some of which are not finite.

    Raises:
      UserError: naming how many.
    """
    if ARRAY in arrays:
        found = summary(arrays[ARRAY].reshape(-1))
        raise UserError(f"{path}: {about(found, len(arrays['arr_0']))}: give samples that all are.")


def pictures_of(samples, numbers):
    """Samples [N, H, W, C] as uint8 images; those with these numbers become checkerboards."""
    height, width, _ = samples.shape[1:]
    marked = np.array(samples)
    board = np.add.outer(np.arange(height), np.arange(width)) % 2 * 2.0 - 1
    marked[numbers] = board[..., None]
    return to_uint8(marked)
