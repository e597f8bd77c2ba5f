"""Shuffling without a list: the place of any example in an endless, shuffled order.

A Feistel network permutes [0, 4^h); walking on from every result that is no example's number,
until one is, permutes [0, N) (cycle walking; Black & Rogaway 2002, "Ciphers with arbitrary finite
domains"). It costs no memory, and a batch of any size is a few operations on arrays.
"""

import numpy as np

ROUNDS = 6


def shuffled(places, size, seed):
    """The examples at these places of an endless order, every epoch of which holds each once.

    Args:
      places: [B] int64, not negative.
      size: N, the number of examples; at most 2^62.
      seed: of the order, not negative.

    Returns:
      [B] int64 in [0, N).
    """
    epoch, numbers = np.divmod(np.asarray(places, np.uint64), np.uint64(size))
    keys = _mix(_mix(np.uint64(seed)[None]) + epoch)
    half = max(1, -(-(size - 1).bit_length() // 2))
    numbers = _permute(numbers, keys, half)
    while (outside := np.flatnonzero(numbers >= size)).size:
        numbers[outside] = _permute(numbers[outside], keys[outside], half)
    return numbers.astype(np.int64)


def _permute(numbers, keys, half):
    """A permutation of numbers of 2 * half bits, for each key another."""
    shift, mask = np.uint64(half), np.uint64(2**half - 1)
    left, right = numbers >> shift, numbers & mask
    for turn in range(ROUNDS):
        left, right = (
            right,
            left ^ (_mix(keys + right * np.uint64(ROUNDS) + np.uint64(turn)) & mask),
        )
    return left << shift | right


def _mix(values):
    """Scatters 64 bits: the finaliser of SplitMix64 (Steele et al. 2014)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return values ^ values >> np.uint64(31)
