"""The noise levels of EDM: Karras et al. 2022 (arXiv:2206.00364).

sigma_i = (max^(1/rho) + i / (N - 1) (min^(1/rho) - max^(1/rho)))^rho,  sigma_N = 0    (Eq. 5)
"""

import math

import numpy as np

from jaxdiff.errors import UserError


def sigmas(num_steps, sigma_min, sigma_max, rho):
    """The levels that a sampler of N steps visits: [N + 1] float64, falling, the last one 0.

    Args:
      num_steps: N, at least 1, or its text; with 1 the only noisy level is sigma_max.
      sigma_min: the last level but one, positive.
      sigma_max: the first level.
      rho: positive; the larger, the more levels are low ones.

    Raises:
      UserError: for numbers out of these ranges.
    """
    if not (str(num_steps).isdecimal() and int(num_steps) >= 1):
        raise UserError(
            f"{num_steps!r} is no number of steps through levels of sigma: give a whole number of "
            "at least 1."
        )
    if not 0 < sigma_min < sigma_max < math.inf:
        raise UserError(
            f"sigma_min is {sigma_min} and sigma_max is {sigma_max}: they must be positive, and "
            "sigma_min the smaller one."
        )
    if not 0 < rho < math.inf:
        raise UserError(f"rho is {rho}: it must be positive; EDM uses 7.")
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    ramp = np.arange(int(num_steps)) / max(int(num_steps) - 1, 1)
    noisy = (high + ramp * (low - high)) ** rho
    return np.append(noisy, 0.0)
