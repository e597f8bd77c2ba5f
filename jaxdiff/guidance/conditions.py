"""The condition of a network at each step: the same, one with random labels, or annealed.

Each function returns (i, keys [B]) -> Condition for a NetworkBranch; `dropout` returns its
(i, keys [B]) -> Dropout.
"""

import jax

from jaxdiff.config import Label
from jaxdiff.diffusion.randomness import Purpose, derived
from jaxdiff.models.condition import Dropout


def same(condition):
    """The Condition given, at every step."""
    return lambda i, keys: condition


def random(embed, cond, conditions):
    """Labels drawn uniformly at each step, other conditions as given (arXiv:2407.02687).

    Args:
      embed: cond -> Condition, a network's.
      cond: {name: array [B, ...]} of the samples.
      conditions: the network's, of jaxdiff.config; each Label among them is drawn.
    """
    labels = [each for each in conditions if isinstance(each, Label)]

    def draw(i, keys):
        drawn = {}
        for n, label in enumerate(labels):
            own = derived(keys, Purpose.RANDOM_LABEL, i, *([n] if n else []))
            drawn[label.name] = jax.vmap(_uniform, (0, None))(own, label.classes)
        return embed({**cond, **drawn})

    return draw


def _uniform(key, count):
    return jax.random.randint(key, (), 0, count)


def annealed(condition, cads, number=None):
    """A condition annealed by CADS.

    Args:
      condition: (i, keys) -> Condition.
      cads: a Cads.
      number: of the reference, so that each has noise of its own; None for the main network.
    """

    def anneal(i, keys):
        main, other = (Purpose.CADS_MAIN, i), (Purpose.CADS_REFERENCE, i, number)
        own = derived(keys, *(main if number is None else other))
        return cads.anneal(condition(i, keys), i, own)

    return anneal


def dropout(rate, number=None):
    """Dropout at a rate, with masks of its own at each step; `number` as in `annealed`."""
    place = 0 if number is None else 1 + number
    return lambda i, keys: Dropout(rate, derived(keys, Purpose.DROPOUT, i, place))
