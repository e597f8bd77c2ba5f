"""Kernel inception distance (KID): the squared maximum mean discrepancy of a cubic kernel.

    k(x, y) = (x.y / D + 1)^3
    KID = [sum_{i != j} k(x_i, x_j) + sum_{i != j} k(y_i, y_j)] / (m (m - 1))
          - 2 sum_{i, j} k(x_i, y_j) / m^2

of m samples x and m real images y [m, D] (Binkowski et al. 2018, arXiv:1801.01401), averaged over
random subsets. It has no bias of m: values slightly below 0 are right. Only the spread over
subsets depends on m, and says nothing of the error of the mean.
"""

import numpy as np


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
    values = []
    for _ in range(subsets):
        x = fake[random.choice(len(fake), size, replace=False)]
        y = real[random.choice(len(real), size, replace=False)]
        values.append(_discrepancy(x, y))
    return float(np.mean(values)), float(np.std(values))


def rows_needed(size):
    """How many rows each set needs for subsets of `size`."""
    return max(size, 2)


def _discrepancy(x, y):
    m, dimension = x.shape
    rows = np.ones((2 * m, dimension + 1))
    rows[:m, :-1], rows[m:, :-1] = x, y
    rows[:, :-1] /= np.sqrt(dimension)
    # All three products at once, which NumPy knows to be symmetric: half the work.
    products = rows @ rows.T  # x.y / D + 1
    kernel = products * products
    kernel *= products
    within = kernel[:m, :m].sum() + kernel[m:, m:].sum() - np.trace(kernel)
    return within / (m * (m - 1)) - 2 * kernel[:m, m:].sum() / m**2
