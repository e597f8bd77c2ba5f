"""Classes of settings: frozen dataclasses whose values are checked when they are made.

    @settings(kind="heun")
    class Heun:
        steps: Annotated[int, Range(1, 100_000)] = 18

Each setting is stated once: its name, type, bounds and default by the field, its meaning by the
line of that name under `Attributes:` in the class's docstring. Checking, command-line overrides,
config.json and the page of all settings follow from these. Nothing here imports JAX.
"""

import dataclasses
import difflib
import functools
import inspect
import math
import numbers
import re
import types
import typing
from typing import Annotated, Any, Literal, Union

from jaxdiff.errors import UserError


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`; each end is included unless `above` or `below` is set."""

    low: float
    high: float
    above: bool = False
    below: bool = False

    def __contains__(self, value):
        is_high_enough = self.low < value if self.above else self.low <= value
        return is_high_enough and (value < self.high if self.below else value <= self.high)

    def __str__(self):
        low = f"{'above' if self.above else 'at least'} {self.low}"
        if math.isinf(self.high):
            return low
        return f"{low} and {'below' if self.below else 'at most'} {self.high}"


# Marks a field of one class of settings where those of other projects are as good.
OPEN = "or another of settings"


def settings(cls=None, *, kind=None, section=None, positional=False):
    """Makes a class of settings of one with annotated fields; a decorator.

    Args:
      kind: short name of the class in config.json; by default `module:Class`.
      section: name of the section of a run's config that holds it, for messages; by default the
        class's own name.
      positional: whether values may be given without the names of their fields.

    Raises:
      UserError: not here, but when an instance is made with a value of another type or out of
        range. A class may add a method `check(self)` for what its fields must fulfil together.
    """

    def make(cls):
        cls.kind = kind or f"{cls.__module__}:{cls.__qualname__}"
        cls.section = section or cls.__name__
        cls.__post_init__ = _check
        return dataclasses.dataclass(frozen=True, kw_only=not positional)(cls)

    return make if cls is None else make(cls)


def is_settings(value):
    """Whether a value, or a class, is one of settings."""
    return hasattr(value, "kind") and dataclasses.is_dataclass(value)


def _check(self):
    for name, hint in hints(type(self)).items():
        checked = checked_value(f"{self.section}.{name}", getattr(self, name), hint)
        object.__setattr__(self, name, checked)
    if hasattr(self, "check"):
        self.check()


@functools.cache
def hints(cls):
    """{field: its type with bounds} of a class of settings."""
    found = typing.get_type_hints(cls, include_extras=True)
    return {field.name: found[field.name] for field in dataclasses.fields(cls)}


@functools.cache
def meanings(cls):
    """{field: what it means} from the `Attributes:` of a class's docstring and its bases'."""
    found = {}
    for base in reversed(cls.__mro__):
        text = inspect.cleandoc(base.__dict__.get("__doc__") or "")
        _, _, attributes = text.partition("Attributes:\n")
        for names, meaning in re.findall(r"^  ([\w, ]+): ((?:.|\n    )*)", attributes, re.M):
            found |= dict.fromkeys(names.split(", "), " ".join(meaning.split()))
    return found


def shown(value):
    """A value as text that fits into a message."""
    text = repr(value) if isinstance(value, str) and not value.isprintable() else str(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


def nearest(name, names):
    """Advice to end a sentence about an unknown name: the nearest one, or all of them."""
    if close := difflib.get_close_matches(str(name), names, 1):
        return f"did you mean {close[0]}?"
    return f"there are {', '.join(names)}."


def options(hint):
    """The types of a union, with bounds; a type that is none by itself."""
    if typing.get_origin(hint) is Annotated and typing.get_args(hint)[1:] == (OPEN,):
        return options(hint.__origin__)
    is_union = typing.get_origin(hint) in (Union, types.UnionType)
    return typing.get_args(hint) if is_union else (hint,)


def expected(hint):
    """What values of a type look like, in words."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return f"{expected(args[0])} {' '.join(map(str, args[1:]))}"
    if origin is Literal:
        return either(args)
    if origin is tuple:
        inner = expected(args[0]).removeprefix("a ").removeprefix("an ")
        return f"a list, each {inner}"
    if len(options(hint)) > 1:
        return either([expected(o) for o in options(hint)])
    words = {
        bool: "True or False",
        int: "a whole number",
        float: "a number",
        str: "text",
        type(None): "None",
    }
    return words.get(hint, getattr(hint, "__name__", str(hint)))


def either(choices):
    """Choices in words: "a, b or c"."""
    *most, last = map(str, choices)
    return f"{', '.join(most)} or {last}" if most else last


def checked_value(name, value, hint):
    """The value as its field holds it: whole floats as int where ints are wanted, lists as tuples.

    Raises:
      UserError: if it is of another type or out of range.
    """
    result = _fitted(value, hint)
    if result is _WRONG:
        raise UserError(f"{name} is {shown(value)}: it must be {expected(hint)}.")
    return result


_WRONG = object()


def _fitted(value, hint):
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated and OPEN in args:
        return value if is_settings(value) else _WRONG
    if origin is Annotated:
        return _within(_fitted(value, args[0]), args[1:])
    if origin is Literal:
        return value if value in args and type(value) in map(type, args) else _WRONG
    if origin is tuple:
        parts = [_fitted(v, args[0]) for v in value] if isinstance(value, (tuple, list)) else None
        return _WRONG if parts is None or _WRONG in parts else tuple(parts)
    if len(alternatives := options(hint)) > 1:
        found = [result for o in alternatives if (result := _fitted(value, o)) is not _WRONG]
        # A class of settings from outside the package is as good as the package's own.
        is_made = is_settings(value) and not isinstance(value, type)
        is_other = is_made and not type(value).__module__.startswith("jaxdiff.")
        is_open = any(map(is_settings, alternatives)) and is_other
        return found[0] if found else value if is_open else _WRONG
    return _of_type(value, hint)


def _of_type(value, wanted):
    if wanted is Any:
        return value
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if wanted is float:
        return float(value) if is_number and not math.isnan(value) else _WRONG
    if wanted is int:
        return int(value) if is_number and isinstance(value, numbers.Integral) else _WRONG
    if wanted is type(None):
        return None if value is None else _WRONG
    return value if isinstance(value, wanted) else _WRONG


def _within(value, ranges):
    if value is _WRONG or value is None:
        return value
    values = value if isinstance(value, tuple) else (value,)
    return value if all(v in each for v in values for each in ranges) else _WRONG
