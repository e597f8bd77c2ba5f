"""The state dict of an ADM network in what people save: alone, or in a training checkpoint.

Training programs wrap networks (`module.`, `model.`, `_orig_mod.` before every name) and save more
than weights ({"model": ..., "ema": ..., "step": ...}).
"""

import dataclasses

import numpy as np

from jaxdiff.errors import UserError
from jaxdiff.interop.torch_pickle import EXPECTED

ANCHOR = "time_embed.0.weight"  # which every ADM network has, once
INNER = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
DEEPEST = 4
STEPS = ("step", "global_step", "iteration")
LONGEST_NAME = 200
SHOWN = 5


@dataclasses.dataclass(frozen=True)
class Found:
    """The network of a file.

    Attributes:
      state_dict: {name: array}, named as ADM names its parameters.
      place: keys that lead to it in the file.
      prefix: what was left out before every name.
      left_out: names in the same dict that are no part of the network.
      step: of training, where the file holds it; or None.
    """

    state_dict: dict
    place: tuple = ()
    prefix: str = ""
    left_out: tuple = ()
    step: int | None = None

    def __str__(self):
        """What was taken and what left out, as the end of a sentence; empty for a plain file."""
        parts = [f"its entry {'/'.join(self.place)!r}"] if self.place else []
        parts += [f"without the prefix {self.prefix!r} of its names"] if self.prefix else []
        if self.left_out:
            parts.append(f"without {_shown(self.left_out)}, no part of the network")
        return ", ".join(parts)


def find(nested, path):
    """Finds the network in what `torch_file.read_nested` gives.

    Args:
      nested: the dict.
      path: of its file, for messages.

    Raises:
      UserError: if there is no network of ADM's, or more than one to choose from.
    """
    places = list(_places(nested))
    if not places:
        names = [name for name in nested if type(name) is str]
        raise UserError(
            f"{path} holds no network of ADM's, as nothing in it is named {ANCHOR}, but "
            f"{_shown(names) or 'nothing'}: give a checkpoint of that code."
        )
    place, values = _one(places, path, "entries", lambda entry: "/".join(entry[0]) or "the file")
    names = [name for name in values if type(name) is str]
    prefixes = [_before_anchor(name) for name in names if _plain(name).endswith(ANCHOR)]
    prefix = "" if "" in prefixes else _one(prefixes, path, "prefixes", str)
    state_dict, left_out = {}, []
    for name in names:
        value, plain = values[name], _plain(name.removeprefix(prefix))
        # A tensor without axes is a counter or a rate: a step, num_batches_tracked, a decay.
        if type(value) is not np.ndarray or not value.ndim or not name.startswith(prefix):
            left_out.append(name)
        elif len(name) > LONGEST_NAME or not name.isprintable() or plain in state_dict:
            again = "once more" if plain in state_dict else "as a name"
            raise UserError(f"{path} holds {name!r:.90} {again}: {EXPECTED}")
        else:
            state_dict[plain] = value
    return Found(state_dict, place, prefix, tuple(left_out), _step(nested, values))


def _places(nested):
    """Yields (keys, dict) of every dict that holds a network, those nearest first."""
    level, seen = [((), nested)], {id(nested)}
    for _ in range(DEEPEST):
        below = []
        for place, values in level:
            if any(type(name) is str and _plain(name).endswith(ANCHOR) for name in values):
                yield place, values
            for name, value in values.items():
                if type(value) is dict and type(name) is str and id(value) not in seen:
                    seen.add(id(value))
                    below.append(((*place, name), value))
        level = below


def _plain(name):
    """A name without what wrappers of single layers put into it."""
    for inner in INNER:
        name = name.replace(inner, "")
    return name


def _before_anchor(name):
    """What precedes the anchor in a name."""
    return (name if name.endswith(ANCHOR) else _plain(name)).removesuffix(ANCHOR)


def _one(choices, path, what, text):
    """The only choice, or the only one that is called an average."""
    averages = [choice for choice in choices if "ema" in text(choice).lower()]
    for few in (choices, averages):
        if len(few) == 1:
            return few[0]
    raise UserError(
        f"{path} holds several networks, by the {what} {_shown(map(text, choices))}: save the one "
        "that is wanted alone, with torch.save."
    )


def _step(*dicts):
    """The step of training that one of the dicts holds; None without."""
    for values in dicts:
        for name in STEPS:
            value = values.get(name)
            if type(value) is np.ndarray and not value.ndim and value.dtype.kind == "i":
                value = int(value)
            if type(value) is int and 0 <= value < 2**31:
                return value
    return None


def _shown(names):
    names = [f"{name!r:.60}" for name in names]
    more = [f"{len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return ", ".join(names[:SHOWN] + more)
