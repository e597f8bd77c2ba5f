"""What networks are told at each step: a label, none, a random one; as it is, or annealed."""

import jax

from jaxdiff.diffusion.denoiser import Condition
from jaxdiff.diffusion.randomness import Purpose, derived, normal


def same(labels):
    """Tells a network the labels [B] int32 at every step."""
    return lambda i, keys: labels


def random(num_classes):
    """Tells a network labels drawn anew each step, all classes alike (arXiv:2407.02687)."""

    def draw(i, keys):
        keys = derived(keys, Purpose.RANDOM_LABEL, i)
        return jax.vmap(lambda key: jax.random.randint(key, (), 0, num_classes))(keys)

    return draw


def embedded(embed, labels, cads=None, number=None, drops=False):
    """Conditions for a NetworkBranch.

    Args:
      embed: labels [B] -> embedding [B, E], or None for a network without labels.
      labels: (i, keys) -> labels [B], such as `same` and `random` make.
      cads: a Cads that anneals the embedding; None to leave it as it is.
      number: of the reference, so that each has noise of its own; None for the main network.
      drops: whether the network is run with dropout, which has masks of its own too.
    """

    def condition(i, keys):
        embedding = embed(labels(i, keys))
        if cads is not None and embedding is not None:
            main, other = (Purpose.CADS_MAIN, i), (Purpose.CADS_REFERENCE, i, number)
            noise = normal(derived(keys, *(main if number is None else other)), embedding.shape[1:])
            embedding = cads.anneal(embedding, i, noise)
        place = 0 if number is None else 1 + number
        return Condition(embedding, derived(keys, Purpose.DROPOUT, i, place) if drops else None)

    return condition
