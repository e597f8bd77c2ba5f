"""Kernel inception distance (KID): the squared maximum mean discrepancy of a cubic kernel.

    k(x, y) = (x.y / D + 1)^3
    KID = [sum_{i != j} k(x_i, x_j) + sum_{i != j} k(y_i, y_j)] / (m (m - 1))
          - 2 sum_{i, j} k(x_i, y_j) / m^2

of m samples x and m real images y [m, D] (Binkowski et al. 2018, arXiv:1801.01401), averaged over
random subsets. It has no bias of m: values slightly below 0 are right. Only the spread over
subsets depends on m, and says nothing of the error of the mean.
"""

import numpy as np

ROWS = 1024  # of the kernel that are in memory at once


def kid(real, fake, *, subsets=100, size=1000, seed=2020):
    """KID above, over random subsets.

    The subsets are torch-fidelity's: RandomState(seed) draws for each first rows of the samples,
    then of the reference, each without replacement. Theirs is of float32 products, which moves it
    by some 1e-5 of its value; this is float64 throughout.

    Arguments:
      real, fake: features [M, D] and [N, D], both of at least `rows_needed(size)` rows.
      subsets: how many.
      size: m, rows of each subset.
      seed: of the subsets.

    Returns:
      (mean, standard deviation) over the subsets, floats; the deviation is the population's.
    """
    if min(len(real), len(fake)) < rows_needed(size):
        raise ValueError(f"Subsets of {size} rows are of {len(real)} and {len(fake)} rows.")
    random = np.random.RandomState(seed)
    picks = [
        [random.choice(len(rows), size, replace=False) for rows in (fake, real)]
        for _ in range(subsets)
    ]
    # Of small sets every subset has the same pairs of rows: then each pair is computed once.
    if (len(fake) + len(real)) ** 2 <= subsets * (2 * size) ** 2 / 2:
        values = _of_all_pairs(fake, real, picks)
    else:
        values = [_of_subset(fake[x], real[y]) for x, y in picks]
    return float(np.mean(values)), float(np.std(values))


def rows_needed(size):
    """How many rows each set needs for subsets of `size`."""
    return max(size, 2)


def _scaled(x, y):
    """Rows [len(x) + len(y), D + 1] whose products are x.y / D + 1."""
    rows = np.ones((len(x) + len(y), x.shape[1] + 1))
    rows[: len(x), :-1], rows[len(x) :, :-1] = x, y
    rows[:, :-1] /= np.sqrt(x.shape[1])
    return rows


def _cubed(products):
    cubes = products * products
    cubes *= products
    return cubes


def _of_subset(x, y):
    """KID of one subset, x and y [m, D]."""
    m, rows = len(x), _scaled(x, y)
    kernel = _cubed(rows @ rows.T)  # NumPy knows that it is symmetric: half the work
    within = kernel[:m, :m].sum() + kernel[m:, m:].sum() - np.trace(kernel)
    return within / (m * (m - 1)) - 2 * kernel[:m, m:].sum() / m**2


def _of_all_pairs(fake, real, picks):
    """KID [S] of S subsets, by the kernel K of all rows: w^T K v for 0/1 columns w and v.

    Arguments:
      fake, real: [N, D] and [M, D].
      picks: (numbers of rows of fake, of real) [m] of each subset.
    """
    rows, m = _scaled(fake, real), len(picks[0][0])
    of_fake, of_real = np.zeros((2, len(rows), len(picks)))
    for n, (x, y) in enumerate(picks):
        of_fake[x, n] = of_real[len(fake) + y, n] = 1
    within = -((rows**2).sum(1) ** 3 @ (of_fake + of_real))  # the diagonal, which is left out
    across = np.zeros(len(picks))
    for start in range(0, len(rows), ROWS):
        some = slice(start, start + ROWS)
        kernel = _cubed(rows[some] @ rows.T)
        sums = kernel @ of_real
        across += (of_fake[some] * sums).sum(0)
        within += (of_real[some] * sums).sum(0) + (of_fake[some] * (kernel @ of_fake)).sum(0)
    return within / (m * (m - 1)) - 2 * across / m**2
