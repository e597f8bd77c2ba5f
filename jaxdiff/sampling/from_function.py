"""A sampler on a function that the user wrote."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import factory
from jaxdiff.config import EDM
from jaxdiff.diffusion.denoiser import Prediction
from jaxdiff.diffusion.randomness import Purpose, derived, normal, sample_keys
from jaxdiff.errors import user_errors
from jaxdiff.guidance.equation import Guidance, NetworkBranch
from jaxdiff.samplers.loop import sample


def run_sampler(sampler, denoise, shape, n=1, seed=0, data_std=0.5):
    """Samples with any denoiser.

    Args:
      sampler: settings such as Heun(steps=18, sigma_max=80.0).
      denoise: (x [n, ...], sigma [n]) -> the expected clean samples x0 [n, ...], where x = x0 +
        sigma * noise; a function of JAX arrays, compiled once: for other parameters give another
        function.
      shape: of one sample.
      n: how many samples.
      seed: of everything random; sample k of a seed does not depend on n.
      data_std: standard deviation of the data, which ancestral sampling (DDPM) depends on.

    Returns:
      x [n, ...] float32, a JAX array.

    Raises:
      UserError: for steps that cannot be met.
    """
    run = _program(sampler, denoise, tuple(shape), data_std)
    return run(seed, np.arange(n, dtype=np.int32))


@functools.lru_cache(maxsize=16)
def _program(sampler, denoise, shape, data_std):
    process = factory.process(EDM(data_std=data_std))
    with user_errors():
        levels, _ = process.path(sampler)

    def denoiser(x, level, condition, dropout=None):
        sigma = jnp.broadcast_to(jnp.asarray(level.ratio, x.dtype), x.shape[:1])
        return Prediction(denoise(x / level.alpha, sigma))

    stepper = factory.sampler(sampler)
    grid = stepper.grid(levels)
    guidance = Guidance(main=NetworkBranch(denoiser))

    @jax.jit
    def run(seed, numbers):
        keys = sample_keys(seed, numbers)
        noise = normal(derived(keys, Purpose.START, 0), shape)
        return sample(stepper, grid, guidance, process.start(keys, noise, grid.levels[0]), keys)

    return run
