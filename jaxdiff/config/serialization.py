"""config.json: every setting of a run, by name; a field `kind` says which class.

A kind that is not the package's own is written `module:Class`, and is used only if it is a class
of settings in a module that the program has imported: a run's folder imports and calls no code.
"""

import dataclasses
import importlib
import sys
import typing

from jaxdiff.config.fields import hints, is_settings, nearest, options, shown
from jaxdiff.config.run import RunConfig
from jaxdiff.errors import UserError

_imported = set()  # names of the modules that `import_modules` imported


def to_dict(config):
    """A value of settings as JSON values: a dict for a class of settings, with its kind first."""
    if is_settings(config):
        values = {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
        return {"kind": config.kind, **values}
    return [to_dict(value) for value in config] if isinstance(config, tuple) else config


def from_dict(values, name="config", hint=RunConfig):
    """The settings that `to_dict` made a dict of.

    Args:
      values: the dict.
      name: what it is, for messages.
      hint: the class of settings, or a union of them.

    Raises:
      UserError: for fields that are unknown or missing, kinds whose module is not imported, and
        values of another type or out of range.
    """
    if not isinstance(values, dict):
        raise UserError(f"{name} is {shown(values)}: it must be a section of settings.")
    cls = _class_of(values.get("kind"), name, hint)
    types, made = hints(cls), {}
    for field, value in values.items():
        if field == "kind":
            continue
        if field not in types:
            raise UserError(f"{name} has no field {shown(field)}: {nearest(field, list(types))}")
        made[field] = _value(value, f"{name}.{field}", types[field])
    required = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING]
    if missing := [field for field in required if field not in made]:
        raise UserError(f"{name} lacks the field {missing[0]}: add it.")
    return cls(**made)


def _value(value, name, hint):
    if isinstance(value, dict):
        return from_dict(value, name, hint)
    args = [a for option in options(hint) for a in typing.get_args(option)]
    if isinstance(value, list) and any(map(is_settings, args + _members(args))):
        return tuple(from_dict(v, f"{name}[{i}]", args[0]) for i, v in enumerate(value))
    return tuple(value) if isinstance(value, list) else value


def _members(hints_):
    return [member for hint in hints_ for member in options(hint)]


def _class_of(kind, name, hint):
    known = {each.kind: each for each in options(hint) if is_settings(each)}
    if kind in known:
        return known[kind]
    if kind is None and len(known) == 1:
        return next(iter(known.values()))
    if ":" not in str(kind):
        raise UserError(f"{name}.kind is {shown(kind)}: {nearest(kind, list(known))}")
    module, _, attribute = kind.partition(":")
    found = sys.modules.get(module)
    for part in attribute.split("."):
        found = getattr(found, part, None)
    is_kind = isinstance(found, type) and is_settings(found) and found.kind == kind
    return found if is_kind else _refuse(kind, f"{name}.kind")


def imported(text, name):
    """The function that `module:function` names, in a module that `import_modules` imported.

    Args:
      text: such as "mine.data:prepare".
      name: of the setting that holds it, for the message.

    Raises:
      UserError: if the module was not imported so, or lacks the function.
    """
    module, _, attribute = text.partition(":")
    found = getattr(sys.modules.get(module), attribute, None) if module in _imported else None
    return found if callable(found) else _refuse(text, name)


def _refuse(text, name):
    module = text.partition(":")[0]
    raise UserError(
        f"{name} is {shown(text)}, which this program has not imported: if you trust it, give "
        f"--import {module} (in Python, jaxdiff.load(..., imports=[{module!r}]))."
    )


def import_modules(names):
    """Imports the modules that --import names, whose kinds a config may then have.

    Raises:
      UserError: if one cannot be imported.
    """
    for name in names:
        try:
            importlib.import_module(name)
            _imported.add(name)
        except Exception as error:  # a module is a program, and may raise anything
            raise UserError(
                f"--import {name} failed ({type(error).__name__}: {error}): give a module that "
                "Python finds from here."
            ) from None
