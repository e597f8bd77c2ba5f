"""`--config FILE` and `--config.SECTION.FIELD=VALUE`: a config from the command line."""

import dataclasses
import importlib
import pathlib
import sys
import traceback
import typing
from typing import Annotated, Literal

from jaxdiff.config.fields import expected, hints, is_settings, meanings, nearest, options, shown
from jaxdiff.config.run import RunConfig
from jaxdiff.errors import UserError

BOOLS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def override(config, values):
    """A config with the values that texts have for its fields, all replaced at once.

    Args:
      config: of settings.
      values: {path such as "training.num_steps": text such as "100", "1,2,4" or "True"}.

    Raises:
      UserError: for a field that there is not, or a text that is no value of it.
    """
    return _override(config, {tuple(path.split(".")): text for path, text in values.items()}, "")


def _override(config, values, above):
    types, made = hints(type(config)), {}
    for name in dict.fromkeys(names[0] for names in values):
        path = above + name
        if name == "kind":
            raise UserError(
                f"{path} cannot be set here, as another kind has settings of its own: write "
                "another config file."
            )
        if name not in types:
            where = above.removesuffix(".") or "The config"
            raise UserError(f"{where} has no field {shown(name)}: {nearest(name, list(types))}")
        inner = {names[1:]: text for names, text in values.items() if names[0] == name}
        made[name] = _one(getattr(config, name), types[name], inner, path)
    return dataclasses.replace(config, **made)


def _one(value, hint, values, path):
    """The new value of a field: of a section, from those of its fields; else from one text."""
    if is_settings(value) and () in values:
        example = next(iter(hints(type(value))), "FIELD")
        raise UserError(
            f"{path} is a section: set its fields one by one, as in --config.{path}.{example}=..."
        )
    if is_settings(value):
        return _override(value, values, f"{path}.")
    if set(values) != {()}:
        raise UserError(f"{path} is a value and has no fields: set --config.{path}=VALUE.")
    return parsed(values[()], hint, path)


def parsed(text, hint, name):
    """The value of a field that a text stands for.

    Raises:
      UserError: if it is none; bounds are checked later, where the settings are made.
    """
    for read in _readers(hint):
        try:
            return read(text.strip())
        except (ValueError, KeyError):
            continue
    raise UserError(f"{name} is {shown(text)}: it must be {expected(hint)}.")


def _readers(hint):
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _readers(args[0])
    if origin is Literal:
        return [lambda text: {str(choice): choice for choice in args}[text]]
    if origin is tuple:
        return _readers(args[0]) and [lambda text: _tuple(text, _readers(args[0]))]
    if len(alternatives := options(hint)) > 1:
        return [read for each in alternatives for read in _readers(each)]
    if hint is bool:
        return [lambda text: BOOLS[text.lower()]]
    if hint is type(None):
        return [lambda text: {"none": None}[text.lower()]]
    return [hint] if hint in (int, float, str) else []


def _tuple(text, readers):
    if text[:1] + text[-1:] in ("()", "[]"):
        text = text[1:-1]
    parts = [part.strip() for part in text.split(",")]
    parts = parts[:-1] if parts[-1] == "" else parts
    return tuple(readers[0](part) for part in parts)


def read_config_file(name):
    """The RunConfig that `get_config()` of a config file returns.

    Args:
      name: path of a Python file; or the name of a config that is installed with the package, such
        as `mnist` for configs/mnist.py.

    Raises:
      UserError: if there is no such file, it fails, or returns something else.
    """
    path = pathlib.Path(name)
    try:
        if path.suffix == ".py":
            if not path.is_file():
                raise UserError(f"--config {name} is no file: give a config file.")
            namespace = {"__name__": path.stem, "__file__": str(path)}
            exec(compile(path.read_text("utf-8"), str(path), "exec"), namespace)
            get_config = namespace.get("get_config")
        else:
            get_config = _installed(name).get_config
        if get_config is None:
            raise UserError(f"--config {name} has no function get_config: add one.")
        config = get_config()
    except (UserError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a config file is a program, and may do anything
        raise UserError(f"--config {name} failed ({_place(error, path)}): correct it.") from None
    if not isinstance(config, RunConfig):
        raise UserError(
            f"--config {name} returns {type(config).__name__}: its get_config must return a "
            "jaxdiff.config.RunConfig."
        )
    return config


def _installed(name):
    module = "configs." + name.replace("/", ".")
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and module.startswith(error.name):
            raise UserError(
                f"--config {name} is neither a file that ends in .py nor a config that is "
                "installed with jaxdiff: give one such as configs/NAME.py."
            ) from None
        raise


def _place(error, path):
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    line = frames[-1].lineno if frames else getattr(error, "lineno", None)
    what = f"{type(error).__name__}: {error}"
    return f"line {line}: {what}" if line else what


def config_from(arguments):
    """Takes a run's config out of a command line.

    Args:
      arguments: such as ["--config", "configs/a.py", "--config.seed=1", "--workdir", "runs/a"].

    Returns:
      (RunConfig, or None without --config; the other arguments).

    Raises:
      UserError: as `read_config_file` and `override`; for more than one config file.
    """
    files, fields, others, arguments = [], [], [], list(arguments)
    while arguments:
        argument = arguments.pop(0)
        name, equals, value = argument.partition("=")
        name = "--" + name.lstrip("-") if name.startswith("-") else name
        if name != "--config" and not name.startswith("--config."):
            others.append(argument)
            continue
        if not equals:
            if not arguments:
                raise UserError(f"{argument} has no value: write {argument}=VALUE.")
            value = arguments.pop(0)
        (files if name == "--config" else fields).append((name.removeprefix("--config."), value))
    if len(files) > 1:
        raise UserError(f"--config is given {len(files)} times: give one config file.")
    if not files:
        if fields:
            raise UserError(f"--config.{fields[0][0]} is given without --config: give a file too.")
        return None, others
    # Config files import others, and modules of their own, from the folder that one works in.
    if "" not in sys.path and str(pathlib.Path.cwd()) not in sys.path:
        sys.path.insert(0, str(pathlib.Path.cwd()))
    return override(read_config_file(files[0][1]), dict(fields)), others


def described(config, prefix="--config."):
    """Lines that list every field of a config: its flag, value, and what may be given for it."""
    lines = []
    for name, hint in hints(type(config)).items():
        value = getattr(config, name)
        if is_settings(value):
            lines += described(value, f"{prefix}{name}.")
        else:
            meaning = meanings(type(config)).get(name, "")
            lines += [f"  {prefix}{name}={value}", f"      {meaning} ({expected(hint)})"]
    return lines
