"""How good points of the toy are: its density is known, so nothing is estimated but by sampling."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.diffusion.randomness import sample_keys
from studies.toy import data

TRUTH = 2**18  # points that thresholds and shares of branches are taken from
LOWEST = -50.0  # log densities are clamped there, below which float32 does not resolve a mixture
OUTLIERS = 1e-3  # quantile of the truth's log density below which a point is an outlier


@dataclasses.dataclass(frozen=True)
class Score:
    """What is measured of points.

    Attributes:
      mean: of the log density under the truth, in nats, each clamped at -50.
      outliers: share of points whose log density is below the truth's .1 % quantile.
      tv: total variation distance between the shares of points nearest to each branch's mean and
        the truth's, in [0, 1]: the loss of coverage.
      median: of the log density.
      clipped_mean: of max(log density, that quantile), which a few distant points do not dominate.
    """

    mean: float
    outliers: float
    tv: float
    median: float
    clipped_mean: float


def truth(seed, count):
    """Points [count, 2] drawn from class A itself."""
    draw = jax.jit(lambda numbers: data.distribution("A").sample(sample_keys(seed, numbers)))
    return np.asarray(draw(jnp.arange(count)))


def log_density(points):
    """Of points [N, 2] under class A: [N] float64, clamped."""
    log_p = jax.jit(lambda x: data.distribution("A").log_density(x, 0.0))(jnp.asarray(points))
    return np.maximum(np.asarray(log_p, np.float64), LOWEST)


def shares(points):
    """Shares [127] of points [N, 2] by the branch whose mean is nearest."""
    means = data.branch_means("A")
    distance = ((points[:, None] - means.astype(np.float32)) ** 2).sum(-1)
    return np.bincount(distance.argmin(1), minlength=len(means)) / len(points)


@cache
def _reference():
    """The truth's threshold of outliers, and its shares of branches."""
    points = truth(2**31 - 1, TRUTH)
    parts = [shares(part) for part in np.split(points, 16)]
    return np.quantile(log_density(points), OUTLIERS), np.mean(parts, axis=0)


def score(points):
    """The Score of points [N, 2] float32."""
    threshold, expected = _reference()
    log_p = log_density(points)
    return Score(
        mean=log_p.mean(),
        outliers=(log_p < threshold).mean(),
        tv=0.5 * np.abs(shares(points) - expected).sum(),
        median=float(np.median(log_p)),
        clipped_mean=np.maximum(log_p, threshold).mean(),
    )
