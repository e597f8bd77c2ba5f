"""Samples that are not finite: counted, marked, and never written as if they were images."""

import numpy as np

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


def marked(images, numbers):
    """Images [N, H, W, C] uint8 in which those with these numbers are checkerboards.

    Arrays that are no images keep what is not finite.
    """
    if not len(numbers) or images.dtype != np.uint8:
        return images
    images = np.array(images)
    images[numbers] = (np.indices(images.shape[1:3]).sum(0) % 2 * 255)[..., None]
    return images
