"""Frechet distance between the Gaussians that have the moments of two sets of features.

    FD = |m_1 - m_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2))

(Dowson & Landau 1982; of images, Heusel et al. 2017, arXiv:1706.08500), with m [D] the means and
S [D, D] the covariances, of N - 1 degrees of freedom. S_1 S_2 has the eigenvalues of F^T S_2 F for
any F with F F^T = S_1; here F = V L^(1/2) by S_1 = V L V^T. All of it is symmetric, so that few
samples or missing directions give no imaginary parts, and nothing is added to the diagonals.

With N samples it is biased upwards, the more the fewer: distances compare at one N alone. Its
limit,

    FD_N = FD_infinity + b / N,

fitted to subsets of several sizes N, does not depend on N (Chong & Forsyth 2020, arXiv:1911.07023).
"""

import dataclasses
from functools import cached_property

import numpy as np

ROWS = 4096  # of a block, whatever the batches that they came in


@dataclasses.dataclass(frozen=True)
class Moments:
    """Mean and covariance of features.

    Attributes:
      mean: [D] float64.
      covariance: [D, D] float64, of N - 1 degrees of freedom.
      count: N, the number of rows that they are of; None: unknown.
    """

    mean: np.ndarray
    covariance: np.ndarray
    count: int | None = None

    @classmethod
    def of(cls, rows):
        """Of rows [N, D], at least two."""
        return Sums().add(rows).moments()

    @property
    def rank(self):
        """The most that the covariance's rank can be: min(D, N - 1)."""
        return min(len(self.mean), len(self.mean) if self.count is None else self.count - 1)

    @cached_property
    def factor(self):
        """F [D, rank] float64 with F F^T = covariance, computed once."""
        values, vectors = np.linalg.eigh(self.covariance)
        return (vectors * np.sqrt(np.maximum(values, 0)))[:, len(values) - self.rank :]


class Sums:
    """Sums of rows that come in batches, in float64: s = sum of x - c, and of (x - c)(x - c)^T.

    c is the mean of the first `ROWS` rows, so that the covariance, (sum of (x - c)(x - c)^T
    - s s^T / N) / (N - 1), subtracts no large numbers where means are far from 0. Rows are summed
    in blocks of `ROWS`, so that the result has the same bits for batches of any sizes. In memory:
    two matrices [D, D] and a block.
    """

    def __init__(self):
        self._count = self._waiting = 0
        self._block = None

    def add(self, rows):
        """Adds rows [B, D]; returns self."""
        rows = np.asarray(rows)
        if self._block is None:
            self._block = np.empty((ROWS, rows.shape[1]))
        start = 0
        while start < len(rows):
            part = rows[start : start + ROWS - self._waiting]
            self._block[self._waiting : self._waiting + len(part)] = part
            self._waiting += len(part)
            start += len(part)
            if self._waiting == ROWS:
                self._sum()
        return self

    def moments(self):
        """Moments of all rows; ValueError for fewer than two."""
        if self._waiting:
            self._sum()
        if self._count < 2:
            raise ValueError(f"A covariance is of two rows at least, and there are {self._count}.")
        spread = self._products - np.outer(self._total, self._total / self._count)
        spread /= self._count - 1
        return Moments(self._center + self._total / self._count, spread, self._count)

    def _sum(self):
        block, dimension = self._block[: self._waiting], self._block.shape[1]
        if not self._count:
            self._center = block.mean(0)
            self._total, self._products = np.zeros(dimension), np.zeros((dimension, dimension))
        block -= self._center
        self._total += block.sum(0)
        self._products += block.T @ block  # NumPy knows that this is symmetric: half the work
        self._count, self._waiting = self._count + len(block), 0


def distance(a, b):
    """The Frechet distance between two Moments, FD above; a float, 0 if they are equal.

    Where several sets are compared with one, give that one as `a`: its factor is computed once.
    """
    inner = np.linalg.eigvalsh(a.factor.T @ b.covariance @ a.factor)
    # The other eigenvalues are 0, but for rounding, whose root is not small.
    inner = inner[max(len(inner) - b.rank, 0) :]
    cross = np.sqrt(np.maximum(inner, 0)).sum()
    means = ((a.mean - b.mean) ** 2).sum()
    return max(float(means + np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross), 0.0)


def fd_infinity(real, rows, *, points=15, seed=0):
    """FD_infinity above: the Frechet distance of infinitely many samples, from those there are.

    As Chong and Forsyth define it: distances of `points` random subsets, without replacement, of
    sizes from N/10 to N in equal steps; a line in 1/N by least squares; its value at 1/N = 0. The
    bias that `real` has itself, of its own number of images, remains. Sizes that are not large
    beside D are not on the line yet, which the error shows.

    Arguments:
      real: Moments of the reference.
      rows: features [N, D] of the samples, N >= 20.
      points: how many subsets, at least 3.
      seed: of the subsets.

    Returns:
      (value, standard error of the intercept by the residuals), floats.
    """
    count = len(rows)
    if count < rows_needed(infinity=True):
        raise ValueError(f"FD-infinity is of 20 rows at least, and there are {count}.")
    random = np.random.RandomState(seed)
    sizes = np.linspace(count // 10, count, points).astype(int)
    distances = [distance(real, _of_some(rows, random.permutation(count)[:n])) for n in sizes]
    return _intercept(1 / sizes, np.array(distances))


def rows_needed(infinity=False):
    """How many rows a distance, or FD-infinity, needs at least."""
    return 20 if infinity else 2


def _of_some(rows, numbers):
    sums = Sums()
    for start in range(0, len(numbers), ROWS):
        sums.add(rows[numbers[start : start + ROWS]])
    return sums.moments()


def _intercept(x, y):
    """(a, its standard error) of y = a + b x by least squares."""
    away = x - x.mean()
    slope = away @ y / (away @ away)
    residuals = y - y.mean() - slope * away
    variance = residuals @ residuals / (len(x) - 2)
    error = np.sqrt(variance * (1 / len(x) + x.mean() ** 2 / (away @ away)))
    return float(y.mean() - slope * x.mean()), float(error)
