"""Command lines: flags in, one sentence out when something is wrong."""

import contextlib
import logging as python_logging
import os
import pathlib
import re
import signal
import sys
import traceback

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from jaxdiff import stopping
from jaxdiff.errors import UserError


def run(main, *positional, more=False):
    """Runs `main` after parsing flags; mistakes of the user end in a sentence and status 1.

    Args:
      main: called with the positional arguments.
      positional: what each of them is, such as "the folder of a run".
      more: whether there may be further ones, like the last.
    """
    stopping.listen()
    logging.set_verbosity(logging.ERROR)  # libraries' notes on what they do would drown ours
    _silence_orbax()
    flags.FLAGS.set_gnu_getopt()  # else what follows a positional argument would not be parsed
    app.run(lambda argv: _run(main, positional, more, argv[1:]), flags_parser=_parse)


def _silence_orbax():
    """Errors of its threads are logged with their tracebacks, and then raised."""
    logging.get_absl_logger().addFilter(lambda r: "orbax" not in pathlib.Path(r.pathname).parts)
    python_logging.getLogger("asyncio").setLevel(python_logging.CRITICAL)


def _run(main, positional, more, values):
    with _sentences():
        if not more and (stray := values[len(positional) :]):
            raise UserError(f"The argument {stray[0]} was not expected: options start with --.")
        if missing := positional[len(values) :]:
            raise UserError(f"An argument is missing: give {missing[0]}.")
        main(*values)


def _parse(argv):
    with _sentences():
        # Of two files the library runs the second in what the first has defined.
        if (count := sum(bool(re.match("--?config(=|$)", text)) for text in argv)) > 1:
            raise UserError(f"--config is given {count} times: give one config file.")
        try:
            return flags.FLAGS(argv)
        except flags.Error as error:
            raise UserError(_about_flags(error)) from None
        except BaseException as error:  # a config file is a program, and may do anything
            in_config = _lines_of_config(error)
            if isinstance(error, KeyboardInterrupt):
                raise
            if isinstance(error, SystemExit) and in_config is None:
                raise  # --help
            raise UserError(_about_config(error, in_config)) from None


def _about_flags(error):
    text = str(error) or f"A file of flags cannot be read ({error.__cause__ or error.__context__})"
    if "Error whilst parsing config file" in text:  # a TypeError, which comes as its traceback
        text = f"The config file cannot be read ({text.strip().splitlines()[-1]}): correct it"
    return f"{text}.".replace("..", ".")


def _lines_of_config(error):
    """["FILE, line N"] of what a config file did before an error; None if none was being read."""
    frames = traceback.extract_tb(error.__traceback__)
    reading = [n for n, frame in enumerate(frames) if "config_flags" in frame.filename]
    if not reading:
        return None
    later = (frame for frame in frames[reading[-1] + 1 :] if "<frozen" not in frame.filename)
    return [f"{frame.filename}, line {frame.lineno}" for frame in later]


def _about_config(error, in_config):
    """What went wrong in a config file, or with a field that it does not have."""
    if match := re.search(r'Did you mean "(.+?)" instead of "(.+?)"\?', str(error)):
        return f'The config has no field {match[2]}: did you mean "{match[1]}"?'
    if "has no attribute 'get_config'" in str(error):
        return "The config file has no function get_config: give one such as configs/digits.py."
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, SyntaxError):
        return f"The config file cannot be read ({what}): correct it."
    own = [place for place in in_config or () if "ml_collections" not in place]
    if own:
        return f"The config file cannot be read ({own[-1]}: {what}): correct it."
    if isinstance(error, (AttributeError, KeyError)):
        text = str(error.args[0]) if error.args else ""
        if field := re.search(r"lookup: ([\w.]+)", text) or re.fullmatch(
            r"[\"']*([\w.]+)[\"']*", text
        ):
            return f"The config has no field {field[1]}: jaxdiff/config.py lists those that it has."
    return f"The config or the flags cannot be read ({what}): correct them."


@contextlib.contextmanager
def _sentences():
    try:
        yield
    except UserError as error:
        _say(error)
        sys.exit(1)
    except KeyboardInterrupt:
        _say("Stopped by Ctrl-C.")
        sys.exit(128 + signal.SIGINT)


def _say(message):
    """Prints a sentence on one line, whatever the parts of it that libraries wrote."""
    line = " ".join(str(message).split())
    print(f"{os.path.basename(sys.argv[0])}: {line}", file=sys.stderr)


def require(name, value, example):
    """The value of a flag that must be given."""
    if not value:
        raise UserError(f"--{name} is missing: give {example}.")
    return value


def number(name, text):
    """A number in a list that a flag holds."""
    try:
        return float(text)
    except ValueError:
        raise UserError(f"--{name} holds {text}, which is no number: give numbers.") from None


def require_config(holder):
    """The ConfigDict of a config flag; UserError if there is no file of one."""
    if holder.value is None and not flags.FLAGS[holder.name].present:
        raise UserError("--config is missing: give a config file such as configs/digits.py.")
    if isinstance(holder.value, ConfigDict):
        return holder.value
    name = config_flags.get_config_filename(flags.FLAGS[holder.name])
    if type(holder.value).__name__ == "_ErrorConfig":  # of ml_collections, as it opens the file
        raise UserError(
            f"The config file {name} cannot be found: give one such as configs/digits.py."
        )
    raise UserError(
        f"The config file {name} returns {type(holder.value).__name__}: its get_config must return "
        "a config that began as jaxdiff.config.base()."
    )


def use_compilation_cache():
    """Keeps compiled programs in the user's cache folder, unless JAX has been told another."""
    import jax

    if jax.config.jax_compilation_cache_dir is None:
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        jax.config.update("jax_compilation_cache_dir", os.path.join(home, "jaxdiff", "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
