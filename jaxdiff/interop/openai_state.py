"""Finding the state dict of an ADM network in a file: alone, or in a training checkpoint.

Training programs wrap networks (`module.`, `model.`, `_orig_mod.` before every name) and save more
than weights ({"model": ..., "ema": ..., "step": ...}).
"""

import numpy as np

from jaxdiff.config.fields import shown
from jaxdiff.errors import UserError

ANCHOR = "time_embed.0.weight"  # which every ADM network has, once
WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
DEEPEST = 4


def find(nested, path, entry=None):
    """The state dict {name: array} of the network in what `torch_file.read_nested` gives.

    Its place is the keys that lead to it and the prefix of its names, such as `ema/module.`;
    that of a plain file is empty. Tensors without axes are counters, and left out.

    Args:
      nested: the dict.
      path: of its file, for messages.
      entry: the place of the one that is wanted; None: there is only one.

    Raises:
      UserError: if there is no network of ADM's, or several and no entry.
    """
    places = _places(nested)
    if not places:
        raise UserError(
            f"{path} holds no network of ADM's, as nothing in it is named {ANCHOR}: give a "
            "checkpoint of that code."
        )
    if entry is None and len(places) == 1:
        entry = next(iter(places))
    if entry not in places:
        asked = "several networks" if entry is None else f"no network {shown(entry)}"
        raise UserError(
            f"{path} holds {asked}: give --entry with one of {shown(', '.join(places))}."
        )
    values, prefix = places[entry]
    return {
        name.removeprefix(prefix): value
        for name, value in values.items()
        if name.startswith(prefix) and type(value) is np.ndarray and value.ndim
    }


def _places(nested, above="", depth=DEEPEST):
    """{place: (dict of arrays by names without wrappers, prefix)} of every network in a dict."""
    values = {_plain(name): value for name, value in nested.items() if type(name) is str}
    prefixes = [name.removesuffix(ANCHOR) for name in values if name.endswith(ANCHOR)]
    found = {above + prefix: (values, prefix) for prefix in prefixes}
    for name, value in nested.items():
        if type(value) is dict and type(name) is str and depth:
            found |= _places(value, f"{above}{name}/", depth - 1)
    return found


def _plain(name):
    """A name without what wrappers of layers put into it."""
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name
