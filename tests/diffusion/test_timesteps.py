import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.diffusion import timesteps
from jaxdiff.diffusion.timesteps import LossHistory

T = 6


class Sequential:
    """Nichol & Dhariwal 2021, section 3.3, one loss at a time."""

    def __init__(self):
        self.losses = [[] for _ in range(T)]

    def update(self, ts, losses):
        for t, loss in zip(ts, losses, strict=True):
            self.losses[t] = [*self.losses[t], loss][-10:]

    def probabilities(self):
        if any(len(losses) < 10 for losses in self.losses):
            return np.full(T, 1 / T)
        root = np.array([np.sqrt(np.mean(np.square(losses))) for losses in self.losses])
        return 0.999 * root / root.sum() + 0.001 / T


def test_histories_are_those_of_one_loss_at_a_time():
    rng = np.random.default_rng(0)
    expected, history = Sequential(), LossHistory.empty(T)
    update = jax.jit(timesteps.update)
    was_uniform = []
    for batch in range(12):
        # Timestep 0 is rare; the others come often enough to fill a history in one batch.
        t = rng.choice(T, 60, p=[0.02, 0.58, 0.1, 0.1, 0.1, 0.1])
        losses = rng.exponential(1 + t + batch).astype(np.float32)
        expected.update(t, losses)
        history = update(history, jnp.asarray(t), jnp.asarray(losses))
        p = timesteps.probabilities(history)
        np.testing.assert_allclose(p, expected.probabilities(), rtol=1e-5)
        was_uniform.append(bool(np.ptp(p) < 1e-6))
    assert was_uniform[0]
    assert not was_uniform[-1]
    for t in range(T):
        kept = min(10, int(history.counts[t]))
        np.testing.assert_allclose(
            np.sort(history.losses[t, :kept]), np.sort(expected.losses[t]), rtol=1e-6
        )


def test_draws_follow_the_probabilities_and_their_weights_undo_them():
    losses = jnp.arange(1.0, T + 1)[:, None] * jnp.ones((T, 10))
    history = LossHistory(losses, jnp.full(T, 10))
    p = timesteps.probabilities(history)
    np.testing.assert_allclose(p.sum(), 1, rtol=1e-6)
    t, weights = jax.jit(timesteps.draw, static_argnums=2)(history, jax.random.key(0), 100_000)
    shares = np.bincount(t, minlength=T) / len(t)
    np.testing.assert_allclose(shares, p, atol=0.006)
    np.testing.assert_allclose(weights, 1 / (T * p[t]), rtol=1e-6)
    # Of any function of t, here t squared.
    np.testing.assert_allclose((weights * t**2).mean(), np.mean(np.arange(T) ** 2), rtol=0.02)
