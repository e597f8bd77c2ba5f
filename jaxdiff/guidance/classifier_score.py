"""The gradient of classifier guidance (Dhariwal & Nichol 2021, arXiv:2105.05233)."""

import jax
import jax.numpy as jnp


def label_gradient(classifier, labels):
    """Makes (x, level) -> the gradient by x of every sample's log p(label | x, level).

    Args:
      classifier: (x, level) -> logits [B, classes], such as `AdmProcess.classifier` makes.
      labels: [B] int32, the labels to guide to.

    Returns:
      A function to [B, ...] float32, in the scaling of the x that it is given.
    """

    def gradient(x, level):
        def log_probability(x):
            log_p = jax.nn.log_softmax(classifier(x, level).astype(jnp.float32))
            return jnp.take_along_axis(log_p, labels[:, None], axis=1).sum()

        return jax.grad(log_probability)(x.astype(jnp.float32))

    return gradient
