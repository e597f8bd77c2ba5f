"""Guidance put together by hand."""

import jax.numpy as jnp

from jaxdiff.guidance.classifier_score import label_gradient
from jaxdiff.guidance.equation import Guidance, GuidanceParams, NetworkBranch


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
