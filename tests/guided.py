"""Guidance put together by hand."""

from functools import partial

import jax
import jax.numpy as jnp

from jaxdiff.diffusion.randomness import sample_keys
from jaxdiff.guidance.classifier_score import label_gradient
from jaxdiff.guidance.equation import Guidance, GuidanceParams, NetworkBranch
from jaxdiff.samplers.loop import sample


def unguided(denoiser):
    """Guidance of a denoiser alone."""
    return Guidance(main=NetworkBranch(denoiser))


def guided(main, *references, num_steps, weights, **params):
    """Guidance of denoisers, with constant weights."""
    weights = jnp.tile(jnp.asarray(weights, jnp.float32)[:, None], num_steps)
    return Guidance(
        main=NetworkBranch(main),
        references=tuple(map(NetworkBranch, references)),
        params=GuidanceParams(weights, **params),
    )


def with_classifier(denoiser, classifier, labels, scale, num_steps):
    """Guidance of a denoiser by a classifier, at one scale."""
    return Guidance(
        main=NetworkBranch(denoiser),
        params=GuidanceParams(jnp.ones((0, num_steps)), jnp.full(num_steps, scale)),
        gradient=label_gradient(classifier, labels),
    )


def sampled(sampler, denoiser, levels, x, seed=0):
    """Samples of a denoiser without guidance, compiled once for each sampler and step count."""
    keys = sample_keys(seed, jnp.arange(len(x)))
    return _sampled(sampler, denoiser, sampler.grid(levels), x, keys)


@partial(jax.jit, static_argnums=(0, 1))
def _sampled(sampler, denoiser, grid, x, keys):
    return sample(sampler, grid, unguided(denoiser), x, keys)
