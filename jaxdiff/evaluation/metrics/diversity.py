"""Diversity of one set of features: mean similarity (MSS) and Vendi score.

    K_ij = x_i.x_j / (|x_i| |x_j|)
    MSS = mean_ij K_ij = |mean_i x_i / |x_i||^2
    Vendi_q = (sum_i l_i^q)^(1 / (1 - q))
    Vendi_1 = exp(-sum_i l_i log l_i)        Vendi_inf = 1 / max_i l_i

with l the eigenvalues of K / n. MSS has the diagonal in it: it is 1 of equal rows and 1/n of
orthogonal ones (Sadat et al. 2023, CADS, arXiv:2310.17347, who compute it among the images of one
condition). Vendi is the effective number of different rows: 1 of equal ones, n of orthogonal ones
(Friedman & Dieng 2022, arXiv:2210.02410; orders q, Pasarkar & Dieng 2023, arXiv:2310.12952). The
larger q, the less rare rows count. Both depend on n: sets compare at one n alone.
"""

import numpy as np

ROWS = 4096  # of a product


def mss(features, labels=None):
    """Mean over conditions of the MSS of the rows that have it.

    Arguments:
      features: [N, D]; no row may be 0.
      labels: [N] int, the condition of each; None: one for all.

    Returns:
      float, from 0 (or about 1/n) to 1: the lower, the more diverse.
    """
    return float(np.mean([mss_of_units(rows) for rows in _by_condition(features, labels)]))


def vendi(features, labels=None, q=1):
    """Mean over conditions of the Vendi score of order q of the rows that have it.

    Arguments:
      features: [N, D]; no row may be 0.
      labels: [N] int, the condition of each; None: one for all.
      q: order, from 0 (the rank of K) to infinity.

    Returns:
      float, from 1 to the smaller of n and D: the higher, the more diverse.
    """
    return float(np.mean([vendi_of_units(rows, q) for rows in _by_condition(features, labels)]))


def units(features):
    """Rows divided by their lengths, float64, so that K_ii = 1; ValueError if a row is 0."""
    rows = np.array(features, np.float64)
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    if not lengths.all():
        raise ValueError(f"Row {lengths.argmin()} of the features is 0: it has no direction.")
    rows /= lengths[:, None]
    return rows


def mss_of_units(rows):
    """MSS of rows [n, D] that have length 1."""
    return (rows.mean(0) ** 2).sum()


def vendi_of_units(rows, q=1):
    """Vendi_q of rows F [n, D] that have length 1.

    By the eigenvalues of K / n = F F^T / n [n, n], or of F^T F / n [D, D] if that is smaller: they
    are the same ones but for zeros.
    """
    count, dimension = rows.shape
    if count <= dimension:
        products = rows @ rows.T
    else:
        parts = (rows[start : start + ROWS] for start in range(0, count, ROWS))
        products = sum(part.T @ part for part in parts)
    values = np.linalg.eigvalsh(products / count)
    # Smaller ones are rounding of 0, which would count where q < 1.
    values = values[values > values[-1] * len(values) * np.finfo(np.float64).eps]
    if q == 1:
        return np.exp(-(values * np.log(values)).sum())
    if q == np.inf:
        return 1 / values[-1]
    return (values**q).sum() ** (1 / (1 - q))


def _by_condition(features, labels):
    """Rows of length 1 of each condition in turn."""
    rows = units(features)
    if labels is None:
        return [rows]
    labels = np.asarray(labels)
    return (rows[labels == label] for label in np.unique(labels))
