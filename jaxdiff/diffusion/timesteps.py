"""Timesteps drawn in proportion to their losses: Nichol & Dhariwal 2021 (arXiv:2102.09672).

    p_t ~ sqrt(E[L_t^2]),     weight_t = 1 / (T p_t)            (section 3.3)

so that mean(weight * loss), drawn from p, has the expectation of the mean over all timesteps.
E is over the last 10 losses of a timestep; p mixes in .001 of the uniform distribution, and is
uniform until every timestep has 10.
"""

import dataclasses

import jax
import jax.numpy as jnp

LENGTH = 10
UNIFORM = 0.001


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LossHistory:
    """The last losses of each of T timesteps.

    Attributes:
      losses: [T, 10] float32; loss number n of a timestep is in column n mod 10.
      counts: [T] int32, how many losses each timestep has had.
    """

    losses: jax.Array
    counts: jax.Array

    @classmethod
    def empty(cls, num_timesteps):
        """Of T timesteps that have had none."""
        return cls(jnp.zeros((num_timesteps, LENGTH)), jnp.zeros(num_timesteps, jnp.int32))


def probabilities(history):
    """How likely each timestep is drawn: [T] float32, of sum 1."""
    is_full = (history.counts >= LENGTH).all()
    weight = jnp.where(is_full, jnp.sqrt((history.losses**2).mean(1)), 1.0)
    return (1 - UNIFORM) * weight / weight.sum() + UNIFORM / weight.shape[0]


def draw(history, key, batch_size):
    """Timesteps [B] int32, and the weights [B] float32 of their losses."""
    p = probabilities(history)
    t = jax.random.choice(key, p.shape[0], (batch_size,), p=p)
    return t, 1 / (p.shape[0] * p[t])


def update(history, t, losses):
    """The history after one more batch, as if its losses came one by one.

    Args:
      history: a LossHistory.
      t: [B] int32 timesteps, repeated or not.
      losses: [B] float32, not weighted.
    """
    same = t[:, None] == t[None, :]
    earlier, later = jnp.tril(same, -1).sum(1), jnp.triu(same, 1).sum(1)
    column = (history.counts[t] + earlier) % LENGTH
    # What the batch itself pushes out again is sent past the end, and dropped.
    row = jnp.where(later < LENGTH, t, history.counts.shape[0])
    return LossHistory(
        history.losses.at[row, column].set(losses, mode="drop"), history.counts.at[t].add(1)
    )
