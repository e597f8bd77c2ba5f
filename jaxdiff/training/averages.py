"""Averages of the parameters over training.

Each is updated after every step, average += share * (params - average), with share = 1 - beta:

    traditional   beta_t = min(decay, (1 + t) / (10 + t))    after t updates
    power         beta_t = (1 - 1/t)^(gamma + 1)             at update t = 1, 2, ...

The power-function profile (Karras et al. 2023, arXiv:2312.02696, section 3.1) weights the
parameters of step t of T in proportion to t^gamma. Its length is stated as the profile's standard
deviation in units of T:

    sigma_rel = sqrt((gamma + 1) / ((gamma + 2)^2 (gamma + 3)))
"""

from functools import partial

import jax.numpy as jnp

from jaxdiff.checkpoints.power_ema import gamma, profile_name


def profiles(training):
    """{name: step -> share} of a TrainingConfig; step counts the updates before."""
    if training.power_ema:
        return {
            profile_name(sigma_rel): partial(power_share, gamma(sigma_rel))
            for sigma_rel in training.power_ema
        }
    return {str(training.ema): lambda step: 1 - warm_decay(training.ema, step)}


def warm_decay(decay, step):
    """Decay of the traditional average at the update after `step` updates.

    The warm-up forgets the initial parameters as soon as there are better ones, so that samples
    of an early EMA are not noise.
    """
    step = jnp.asarray(step, jnp.float32)
    return jnp.minimum(decay, (1 + step) / (10 + step))


def power_share(gamma, step):
    """Share of the newest parameters at the update after `step` updates; 1 at the first."""
    t = jnp.asarray(step, jnp.float32) + 1
    # 1 - (1 - 1/t)^(gamma + 1), which float32 would round away late in training.
    return -jnp.expm1((gamma + 1) * jnp.log1p(-1 / t))
