"""Gaussian mixtures, whose blurred densities, scores and denoisers are known exactly.

    p(x; s)     = sum_k w_k N(x; m_k, C_k + s^2 I),      C_k = V_k diag(l_k) V_k'
    score(x, s) = grad_x log p(x; s)
    E[x_0 | x]  = x + s^2 score(x, s)

Blurring adds s^2 to every eigenvalue, so that one decomposition serves all noise levels.
"""

import dataclasses
import math
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np

PART = 256


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class GaussianMixture:
    """A distribution of points in D dimensions; of few, as the work grows with D^2.

    Points are [B, D], noise levels a scalar or [B]; what is computed has the points' dtype.

    Attributes:
      weights: [K], positive, of sum 1. Best float64 NumPy, as the two that follow: what is derived
        from them is then derived in float64.
      means: [K, D].
      covariances: [K, D, D], positive definite.
    """

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray

    @cached_property
    def _eigen(self):
        """Variances l [D, K] along the axes V [D, D, K], whose first index is a coordinate's."""
        linalg = jnp.linalg if isinstance(self.covariances, jax.Array) else np.linalg
        variances, axes = linalg.eigh(self.covariances)
        return variances.T, axes.transpose(1, 2, 0)

    def _each(self, function, x, sigma):
        """Maps (log w_k N(x; ...) [K], the axes' coordinates, their variances) -> [...] over x."""
        variances, axes = (jnp.asarray(a, x.dtype) for a in self._eigen)
        means = jnp.asarray(self.means.T, x.dtype)
        dimensions = range(len(means))
        log_w = jnp.log(jnp.asarray(self.weights, x.dtype)) - len(means) / 2 * math.log(2 * math.pi)

        def one(point):
            x, sigma = point
            along = [sum(axes[d, j] * (x[d] - means[d]) for d in dimensions) for j in dimensions]
            blurred = [variances[j] + sigma**2 for j in dimensions]
            log_joint = log_w - 0.5 * sum(
                along[j] ** 2 / blurred[j] + jnp.log(blurred[j]) for j in dimensions
            )
            return function(log_joint, along, blurred)

        sigma = jnp.broadcast_to(jnp.asarray(sigma, x.dtype), x.shape[:1])
        # In parts that a processor's cache holds: 4096 x 1016 at once takes 2-3 times as long.
        return jax.lax.map(one, (x, sigma), batch_size=PART)

    def log_density(self, x, sigma):
        """Log p(x; sigma): [B], in nats."""
        return self._each(lambda log_joint, *_: jax.nn.logsumexp(log_joint), x, sigma)

    def score(self, x, sigma):
        """grad_x log p(x; sigma): [B, D]."""
        axes = jnp.asarray(self._eigen[1], x.dtype)

        def score(log_joint, along, blurred):
            joint = jnp.exp(log_joint - log_joint.max())
            parts = [axes[:, j] @ (joint * along[j] / blurred[j]) for j in range(len(along))]
            return -sum(parts) / joint.sum()

        return self._each(score, x, sigma)

    def denoiser(self, x, sigma):
        """E[x_0 | x] of x = x_0 + sigma eps: [B, D]."""
        variances, axes = (jnp.asarray(a, x.dtype) for a in self._eigen)
        means = jnp.asarray(self.means.T, x.dtype)

        def denoise(log_joint, along, blurred):
            # A mean of the components' own, not x + sigma^2 score, whose parts cancel where the
            # noise is large.
            joint = jnp.exp(log_joint - log_joint.max())
            parts = [
                axes[:, j] @ (joint * along[j] * (variances[j] / blurred[j]))
                for j in range(len(along))
            ]
            return (means @ joint + sum(parts)) / joint.sum()

        return self._each(denoise, x, sigma)

    def sample(self, keys):
        """A point for each key [B]: [B, D] float32."""
        variances, axes = self._eigen
        roots = jnp.asarray((axes * variances**0.5).transpose(2, 0, 1), jnp.float32)
        means = jnp.asarray(self.means, jnp.float32)
        cumulated = jnp.asarray(np.cumsum(self.weights), jnp.float32)

        def draw(key):
            which_key, where_key = jax.random.split(key)
            # A search is twice as fast as jax.random.categorical over many components.
            k = jnp.searchsorted(cumulated, jax.random.uniform(which_key), side="right")
            k = jnp.minimum(k, len(cumulated) - 1)
            return means[k] + roots[k] @ jax.random.normal(where_key, means.shape[1:])

        return jax.vmap(draw)(keys)
