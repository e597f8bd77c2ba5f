"""Kinds of operations, by the scopes that the networks and the training step name them with."""

import re

# The name of a `jax.named_scope`: the kind of what is inside, in order of the tables.
KINDS = {
    "conv": "convolutions",
    "linear": "linear layers",
    "attention": "attention",
    "group_norm": "group norms",
    "dropout": "dropout",
    "optimizer": "optimizer",
    "averages": "averages",
}
OTHER = "other"
ORDER = (*KINDS.values(), OTHER)
_SCOPE = re.compile(rf"(?<![\w.])({'|'.join(KINDS)})(?![\w.])")


def kind_of(path):
    """The kind that a path of scopes names, by the innermost that it has, or None.

    Args:
      path: as JAX prints it, such as `jit(step)/transpose(jvp(group_norm))/reduce_sum`.
    """
    found = _SCOPE.findall(path)
    return KINDS[found[-1]] if found else None


def ordered(by_kind):
    """The same dict in the order of the tables; kinds that are 0 are left out."""
    return {kind: by_kind[kind] for kind in ORDER if by_kind.get(kind)}
