"""The loop that every sampler runs in: a pure function, to be jitted as one call."""

import jax

from jaxdiff.diffusion.randomness import Purpose, normal


def sample(sampler, grid, guidance, x, keys):
    """Runs all steps of a sampler.

    Args:
      sampler: with `init` and `step`, such as Ddpm.
      grid: the sampler's grid of N steps.
      guidance: with `init`, `conditions` and `denoise`, such as Unguided.
      x: [B, ...] at the grid's first level.
      keys: [B], each sample's.

    Returns:
      x at the grid's last level.
    """

    def step(i, values):
        conditions = guidance.conditions(i, keys)

        def denoise(x, level, state):
            return guidance.denoise(x, level, state, conditions)

        noise = normal(keys, Purpose.STEP, i, x.shape[1:])
        x_i, carry, state = values
        return sampler.step(denoise, grid, i, x_i, noise, carry, state)

    values = (x, sampler.init(x), guidance.init(x.shape))
    return jax.lax.fori_loop(0, grid.num_steps, step, values)[0]
