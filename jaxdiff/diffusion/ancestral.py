"""One ancestral step, from noise level a to a lower level b.

    q(x_b | x_a, x_0) = N(x0_weight * x_0 + x_weight * x_a, variance)

    s2       = sigma_a^2 - (alpha_a / alpha_b)^2 sigma_b^2         variance of q(x_a | x_b)
    variance = s2 sigma_b^2 / sigma_a^2

which for variance-preserving levels are beta and the posterior of Ho et al. 2020
(arXiv:2006.11239), equations 6 and 7, for respaced timesteps too.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.diffusion.denoiser import Level, per_sample


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Ancestral:
    """Coefficients of N steps through N + 1 levels, the noisiest first; each [N], float32.

    Attributes:
      x0_weight, x_weight: of the mean.
      log_large: log s2, the largest variance that a step may have; of x_a, so for levels of one
        scaling, alpha = 1 or alpha^2 + sigma^2 = 1 in small steps.
      log_small: log of the posterior variance, the smallest. The last step's is zero, so it
        takes the value of the step before (Nichol & Dhariwal 2021, arXiv:2102.09672).
    """

    x0_weight: jax.Array
    x_weight: jax.Array
    log_large: jax.Array
    log_small: jax.Array

    @classmethod
    def through(cls, levels: Level):
        """Computes the coefficients, in float64, for levels [N + 1] as NumPy arrays."""
        a = Level(levels.alpha[:-1], levels.sigma[:-1])
        b = Level(levels.alpha[1:], levels.sigma[1:])
        large = a.sigma**2 - (a.alpha / b.alpha) ** 2 * b.sigma**2
        small = large * b.sigma**2 / a.sigma**2
        if len(small) > 1:
            small[-1] = small[-2]
        else:
            small[-1] = large[-1]
        coefficients = (
            b.alpha * large / a.sigma**2,
            a.alpha / b.alpha * b.sigma**2 / a.sigma**2,
            np.log(large),
            np.log(small),
        )
        return cls(*(jnp.asarray(c, jnp.float32) for c in coefficients))

    @property
    def num_steps(self):
        """N."""
        return self.log_large.shape[0]

    def mean(self, i, x0, x):
        """Mean of step i (a scalar, or [B] with one step for each sample)."""
        return per_sample(self.x0_weight[i], x) * x0 + per_sample(self.x_weight[i], x) * x

    def log_variance(self, i, prediction):
        """Log variance of step i (a scalar, or [B]), as the prediction wants it; broadcasts over x.

        A fraction leads from small to large (equation 15 of Nichol & Dhariwal 2021; it is not
        confined to [0, 1]). Without one the variance is large; but small at the last step, where
        that makes the better decoder of 8-bit data.
        """
        if prediction.log_variance is not None:
            return prediction.log_variance
        large, small = (
            per_sample(log[i], prediction.x0) for log in (self.log_large, self.log_small)
        )
        fraction = prediction.variance_fraction
        if fraction is not None:
            return fraction * large + (1 - fraction) * small
        is_last = per_sample(i, prediction.x0) == self.num_steps - 1
        return jnp.where(is_last, small, large)
