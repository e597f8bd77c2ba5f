"""The Frechet distance between Gaussians that have the moments of features.

    d^2 = |m_1 - m_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2))

(Dowson & Landau 1982; of images, Heusel et al. 2017, arXiv:1706.08500.) With N samples it is biased
upwards, the more the fewer: distances compare at one N alone.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Moments:
    """Of features.

    Attributes:
      mean: [D] float64.
      covariance: [D, D] float64, of N - 1 degrees of freedom.
    """

    mean: np.ndarray
    covariance: np.ndarray

    @classmethod
    def of(cls, features):
        """Of rows [N, D], at least two."""
        features = np.asarray(features, np.float64)
        return cls(features.mean(0), np.atleast_2d(np.cov(features, rowvar=False)))


def distance(a, b):
    """The Frechet distance d^2 between two Moments; 0 if they are equal."""
    root = _root(a.covariance)
    # S_1 S_2 has the eigenvalues of the symmetric S_1^(1/2) S_2 S_1^(1/2).
    inner = np.linalg.eigvalsh(root @ b.covariance @ root)
    cross = np.sqrt(np.maximum(inner, 0)).sum()
    means = ((a.mean - b.mean) ** 2).sum()
    return float(means + np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross)


def _root(matrix):
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
