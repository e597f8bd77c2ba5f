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
      log_large: log s2, the largest variance that a step may have.
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

    def mean(self, i, x0, x):
        """Mean of step i (a scalar, or [B] with one step for each sample)."""
        return per_sample(self.x0_weight[i], x) * x0 + per_sample(self.x_weight[i], x) * x

    def log_variance(self, i, fraction, x):
        """Log variance of step i: `fraction` of the way from small to large, or large if None.

        Equation 15 of Nichol & Dhariwal 2021; the fraction is not confined to [0, 1].
        """
        large, small = per_sample(self.log_large[i], x), per_sample(self.log_small[i], x)
        return large if fraction is None else fraction * large + (1 - fraction) * small
