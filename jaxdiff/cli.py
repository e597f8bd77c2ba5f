"""Command lines: flags in, one sentence out when something is wrong."""

import contextlib
import logging as python_logging
import os
import pathlib
import re
import signal
import sys

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
        try:
            return flags.FLAGS(argv)
        except flags.Error as error:
            raise UserError(f"{error}.".replace("..", ".")) from None
        except Exception as error:  # a config file is a program, and may raise anything
            raise UserError(_about_config(error)) from None


def _about_config(error):
    """What went wrong in a config file, or with a field that it does not have."""
    if match := re.search(r'Did you mean "(.+?)" instead of "(.+?)"\?', str(error)):
        return f'The config has no field {match[2]}: did you mean "{match[1]}"?'
    if isinstance(error, (AttributeError, KeyError)):
        field = str(error.args[0]).splitlines()[0].strip("\"'")
        return f"The config has no field {field}: jaxdiff/config.py lists those that there are."
    return f"The config file cannot be read ({type(error).__name__}: {error}): mend it."


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
    """The ConfigDict of a config flag, or UserError if the file was not given or not found."""
    if holder.value is None:
        raise UserError("--config is missing: give a config file such as configs/digits.py.")
    if not isinstance(holder.value, ConfigDict):
        name = config_flags.get_config_filename(flags.FLAGS[holder.name])
        raise UserError(
            f"The config file {name} cannot be found: give one such as configs/digits.py."
        )
    return holder.value


def use_compilation_cache():
    """Keeps compiled programs in the user's cache folder, unless JAX has been told another."""
    import jax

    if jax.config.jax_compilation_cache_dir is None:
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        jax.config.update("jax_compilation_cache_dir", os.path.join(home, "jaxdiff", "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
