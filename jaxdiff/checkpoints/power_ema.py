"""Averages of any length as linear combinations of tracked ones: the mathematics, in float64 NumPy.

Karras et al. 2023, arXiv:2312.02696, sections 3.1 and 3.2, appendix C. The power-function profile
of length sigma_rel at step T weighs the parameters of time t, 0 <= t <= T, by

    p(t) = (gamma + 1) t^gamma / T^(gamma + 1)
    sigma_rel = sqrt((gamma + 1) / ((gamma + 2)^2 (gamma + 3)))

Training's update with decay (1 - 1/t)^(gamma + 1) gives the parameters of step t the weight
(t/T)^(gamma+1) - ((t-1)/T)^(gamma+1), which is exactly the integral of p over (t - 1, t]: the
product of the later decays telescopes. So nothing is lost by treating time as continuous. A linear
combination of profiles, integrated over these cells, is the same combination of the averages that
training kept, and integrating over cells of width 1 only ever shrinks an L2 norm: an average over
steps is at least as near to its target as `Solution.residual` says of the functions of time. Tests
hold both: the weights to rounding, the norm as a bound.

The combination sum_i x_i p_i nearest to p in L2 solves A x = b, with inner products

    A_ij = <p_i, p_j> = (g_i + 1) (g_j + 1) / (g_i + g_j + 1) * r^g / max(T_i, T_j)
    r = min(T_i, T_j) / max(T_i, T_j),  g the gamma of the profile that ends later

and is then scaled so that its coefficients sum to 1: the average of constant parameters is the
same constant.
"""

import contextlib
import dataclasses

import numpy as np

PREFIX = "power_"

# Root mean square of the relative error of rounding to the nearest number with m bits after the
# first: errors are uniform over a spacing of 2^-m, and values spread evenly in their logarithm, so
# it is 2^-m / sqrt(12) * sqrt(3 / (8 ln 2)).
ROUNDING = {
    dtype: 2.0**-bits * np.sqrt(1 / 12 * 3 / 8 / np.log(2))
    for dtype, bits in {"float32": 23, "bfloat16": 7}.items()
}


@dataclasses.dataclass(frozen=True)
class Solution:
    """How M profiles are combined of N stored ones; all float64.

    Attributes:
      coefficients: [N, M]; every column sums to 1.
      norm: [M], the 2-norm of each column.
      residual: [M], the L2 norm of combination minus profile, relative to the profile's. Of
        parameters that jitter independently from step to step, it is the size of the rebuilt
        average's error in units of the jitter that the profile itself leaves in.
      error: [M], sqrt(residual^2 + sum_i (rounding_i x_i)^2): the second part, relative to the
        parameters' size, is what rounding the stored values does.
    """

    coefficients: np.ndarray
    norm: np.ndarray
    residual: np.ndarray
    error: np.ndarray


def profile_name(sigma_rel):
    """What the average of this length is called where it is kept: `power_0.05`."""
    return f"{PREFIX}{float(sigma_rel)}"


def profile_length(name):
    """The sigma_rel that `profile_name` was given; None for an average of another kind."""
    with contextlib.suppress(ValueError):
        return float(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else None


def gamma(sigma_rel):
    """The exponent of the profile of this relative width in (0, .2887); a Python float.

    It is the largest real root of g^3 + 7 g^2 + (16 - sigma_rel^-2) g + 12 - sigma_rel^-2.
    """
    inverse = sigma_rel**-2
    roots = np.roots([1, 7, 16 - inverse, 12 - inverse])
    return float(roots[np.isreal(roots)].real.max())


def inner_product(gamma_a, step_a, gamma_b, step_b):
    """<p_a, p_b> over time, in 1/steps; float64 of the arguments' common shape.

    In logarithms: r^g of long runs and short lengths is far below the smallest number, and T^g far
    above the largest.
    """
    later = np.where(step_a < step_b, gamma_b, gamma_a)
    low, high = np.minimum(step_a, step_b), np.maximum(step_a, step_b)
    constant = (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1)
    return constant * np.exp(later * np.log(low / high) - np.log(high))


def solve(lengths, steps, rounding, wanted, step):
    """Combines stored profiles to the wanted ones.

    The system has rounding_i^2 |p|^2 added to its diagonal, so that `Solution.error`, which is what
    the answer is judged by, is also what it minimises. With float32 that is below the places that
    anybody sees. With bfloat16 and three or more profiles it is what keeps the coefficients, which
    would run into the hundreds, from multiplying the rounding.

    A profile that is itself among the stored ones is taken as it is: one coefficient is 1.

    Args:
      lengths, steps: [N], sigma_rel and last step of the stored profiles.
      rounding: [N], the relative error that they were stored with; see ROUNDING.
      wanted: [M], sigma_rel of the wanted profiles, in (0, .2887).
      step: their last step.

    Returns:
      A Solution.
    """
    lengths, steps = np.asarray(lengths, np.float64), np.asarray(steps, np.float64)
    rounding, step = np.asarray(rounding, np.float64), np.float64(step)
    gammas = np.array([gamma(length) for length in lengths])
    products = inner_product(gammas[:, None], steps[:, None], gammas, steps)
    columns = []
    for length in wanted:
        exponent = gamma(length)
        target = inner_product(gammas, steps, exponent, step)
        square = inner_product(exponent, step, exponent, step)
        same = (lengths == length) & (steps == step)
        x = same.astype(np.float64) if same.any() else None
        if x is None:
            x = _nearest(products, target, square * rounding**2)
        difference = x @ products @ x - 2 * target @ x + square
        columns.append((x, np.sqrt(max(difference, 0.0) / square)))
    coefficients = np.stack([x for x, _ in columns], axis=1)
    residual = np.array([residual for _, residual in columns])
    rounded = np.linalg.norm(rounding[:, None] * coefficients, axis=0)
    return Solution(
        coefficients=coefficients,
        norm=np.linalg.norm(coefficients, axis=0),
        residual=residual,
        error=np.hypot(residual, rounded),
    )


def _nearest(products, target, ridge):
    # Profiles of unit norm: those of early snapshots are tall, and would spoil the condition.
    scale = 1 / np.sqrt(np.diag(products))
    system = (products + np.diag(ridge)) * scale[:, None] * scale
    x = scale * np.linalg.solve(system, scale * target)
    return x / x.sum()
