"""Guidance put together by hand."""

import jax.numpy as jnp

from jaxdiff.diffusion.denoiser import Condition
from jaxdiff.guidance.classifier import label_gradient
from jaxdiff.guidance.equation import Guidance, GuidanceParams, NetworkBranch


def branch(denoiser):
    """A NetworkBranch of a denoiser that is told nothing."""
    return NetworkBranch(denoiser, lambda i, keys: Condition())


def unguided(denoiser):
    """Guidance of a denoiser alone."""
    return Guidance(main=branch(denoiser))


def guided(main, *references, num_steps, weights, **strength):
    """Guidance of denoisers, with constant weights."""
    weights = jnp.tile(jnp.asarray(weights, jnp.float32)[:, None], num_steps)
    return Guidance(
        main=branch(main),
        references=tuple(map(branch, references)),
        strength=GuidanceParams(weights, **strength),
    )


def classifier_active(denoiser, classifier, labels, scale, num_steps):
    """Guidance of a denoiser by a classifier, at one scale."""
    return Guidance(
        main=branch(denoiser),
        strength=GuidanceParams(jnp.ones((0, num_steps)), jnp.full(num_steps, scale)),
        gradient=label_gradient(classifier, labels),
    )
