"""Classifier guidance (Dhariwal & Nichol 2021, arXiv:2105.05233).

nudge = scale * grad_x log p(y | x, level)
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Classified:
    """Another guidance, its predictions nudged towards labels by a classifier of noisy images.

    Without a classifier, use the other guidance alone.

    Attributes:
      guidance: the other, such as Unguided.
      classifier: (x, level) -> logits [B, classes], such as `Adm.classifier` makes.
      labels: [B] int32, where to nudge.
      scale: how hard; a traced scalar.
    """

    guidance: Any
    classifier: Callable[..., jax.Array]
    labels: jax.Array
    scale: jax.Array

    def init(self, shape):
        """State carried from step to step: the other guidance's."""
        return self.guidance.init(shape)

    def conditions(self, i, keys):
        """What the networks are told at step i: what the other guidance tells them."""
        return self.guidance.conditions(i, keys)

    def denoise(self, x, level, state, conditions):
        """Returns a Prediction and the next state."""
        prediction, state = self.guidance.denoise(x, level, state, conditions)
        gradient = label_gradient(self.classifier, x, level, self.labels)
        return dataclasses.replace(prediction, nudge=self.scale * gradient), state


def label_gradient(classifier, x, level, labels):
    """The gradient by x of every sample's log p(label | x, level): [B, ...] float32."""

    def log_probability(x):
        log_p = jax.nn.log_softmax(classifier(x, level).astype(jnp.float32))
        return jnp.take_along_axis(log_p, labels[:, None], axis=1).sum()

    return jax.grad(log_probability)(x.astype(jnp.float32))
